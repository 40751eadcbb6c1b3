"""Test session set-up: eight fake CPU devices, golden files, a tiny bundle that speaks."""

import os

# Tiny models compile for longer than they run: without LLVM's optimisations the suite takes a
# third less time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402

# Nothing of a test run stays in the home folder.
os.environ.setdefault("COSYJAX_CACHE_DIR", tempfile.mkdtemp(prefix="cosyjax-xla-"))

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of small golden files that travels with the repository."""
    return GOLDEN


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted official folder of tiny models with random weights."""
    from cosyjax.convert import official
    from cosyjax.infer.bundle import save_bundle
    from tests.tools.official_folder import write_official_folder

    folder = tmp_path_factory.mktemp("tiny")
    write_official_folder(folder / "official")
    save_bundle(official.read_official(folder / "official"), folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="session")
def tiny_tts(tiny_bundle: Path):
    """The tiny bundle, loaded; it babbles, and every stage runs."""
    import cosyjax

    return cosyjax.load(tiny_bundle, dtype="float32")


@pytest.fixture(scope="session")
def prompt_wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.5 s of a gliding tone with a little noise at 24 kHz."""
    import soundfile

    path = tmp_path_factory.mktemp("prompt") / "prompt.wav"
    soundfile.write(path, tone(1.5, 24_000), 24_000)
    return path


def tone(seconds: float, rate_hz: int) -> np.ndarray:
    """A tone from 150 to 250 Hz with noise, float32 in [-0.6, 0.6]."""
    t = np.arange(int(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(0).standard_normal(len(t))
    glide = 2 * np.pi * (150 * t + 50 * t**2 / max(seconds, 1e-9))
    return (0.5 * np.sin(glide) + 0.02 * noise).astype(np.float32)
