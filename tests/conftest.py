"""Test session set-up: eight fake CPU devices, golden files, a tiny bundle that speaks."""

import importlib.metadata
import os

FLAGS = ["--xla_force_host_platform_device_count=8"]
# Tiny models compile for longer than they run. Without LLVM's optimisations the suite takes a third
# less time; without XLA's newer way of writing fusions a program compiles three times as fast.
FLAGS += ["--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # XLA dies of flags that it lacks
    FLAGS += ["--xla_cpu_use_fusion_emitters=false"]
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import atexit  # noqa: E402
import shutil  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402

# What one test has compiled serves the others, those of other workers and the processes that a test
# starts; nothing of it stays when the run is over.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    programs = tempfile.mkdtemp(prefix="cosyjax-xla-")
    atexit.register(shutil.rmtree, programs, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

GOLDEN = Path(__file__).parent / "golden"
# These share the tiny bundle and what speaking with it compiles, so one worker runs them all.
SPEAKING = (
    "cli/test_bad_input.py",
    "eval/test_speech.py",
    "infer/test_chunks.py",
    "infer/test_compat.py",
    "infer/test_find_bundle.py",
    "infer/test_synthesize.py",
    "infer/test_voice_list.py",
    "train/test_assemble.py",
    "train/test_extract.py",
    "train/test_init.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A worker takes a file at a time, and those of `SPEAKING` as if they were one."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "speaking" if file.endswith(SPEAKING) else file

    return Scheduling(config, log)


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
