"""CosyVoice 2 streaming speech synthesis in JAX and Flax."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["load", "__version__"]


def __getattr__(name: str) -> Any:
    """Imports JAX only when synthesis is asked for, so that `import cosyjax` stays quick."""
    if name == "load":
        from cosyjax.infer.synthesize import load

        return load
    raise AttributeError(f"module 'cosyjax' has no attribute {name!r}")
