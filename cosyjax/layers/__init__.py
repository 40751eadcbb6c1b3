"""Small Linen modules with `__call__` and, where they stream, `step`."""
