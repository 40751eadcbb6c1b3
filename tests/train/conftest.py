"""Runs of one config share what XLA compiled, also with the processes that a test starts."""

from __future__ import annotations

import os
from collections.abc import Iterator

import jax
import pytest

CACHE = {
    "jax_compilation_cache_dir": "",
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    values = {**CACHE, "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("xla"))}
    before = {name: getattr(jax.config, name) for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
        del os.environ[name.upper()]
