"""`import cosyjax` is quick and light."""

from __future__ import annotations

import subprocess
import sys


def test_importing_brings_neither_librosa_torch_nor_tensorflow() -> None:
    heavy = ("librosa", "torch", "tensorflow")
    code = f"import cosyjax, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_synthesis_imports_no_training_library() -> None:
    heavy = "('librosa', 'torch', 'tensorflow', 'optax', 'orbax', 'grain', 'onnx')"
    code = f"import cosyjax.infer.synthesize, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
