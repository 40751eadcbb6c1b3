"""One tiny official folder for all tests of the way to a bundle and back."""

import shutil
from pathlib import Path

import pytest

from tests.tools.official_folder import write_official_folder


@pytest.fixture(scope="session")
def untouched(tmp_path_factory) -> Path:
    """Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("official") / "CosyVoice2-tiny"
    write_official_folder(folder)
    return folder


@pytest.fixture
def official(untouched, tmp_path) -> Path:
    """A copy of its own for each test."""
    folder = tmp_path / "official"
    shutil.copytree(untouched, folder)
    return folder
