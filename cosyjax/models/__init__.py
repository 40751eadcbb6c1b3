"""One box of the paper per file, its config beside it."""
