"""Programs kept on disk: the same sound as those traced anew, and never one of something else."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.infer import kept
from cosyjax.infer.stream_schedule import StreamConfig
from cosyjax.infer.streaming import Streamer
from tests.tiny_talker import SETUP, tts

TEXT = "the cat sat. a dog ran off."
GIVEN = {"x": jnp.arange(3.0), "key": jax.random.key(0)}
FREE = {"x": False, "key": False}
TRACED: list[str] = []


def double(given: dict) -> tuple[jax.Array, ...]:
    TRACED.append("traced")
    return 2 * given["x"], jax.random.uniform(given["key"])


def program(place: Path, given: dict = GIVEN, static: str = "double", donate: dict = FREE):
    return kept.program(double, given, static=static, donate=donate, place=place)


def files(place: Path) -> list[Path]:
    return sorted(place.glob("*" + kept.SUFFIX))


@pytest.fixture(autouse=True)
def _nothing_traced() -> None:
    TRACED.clear()


def test_a_program_is_traced_once_and_found_again(tmp_path) -> None:
    wanted = double(GIVEN)
    first = program(tmp_path)(jax.tree.leaves(GIVEN))
    TRACED.clear()
    again = program(tmp_path)(jax.tree.leaves(GIVEN))
    assert not TRACED and len(files(tmp_path)) == 1
    for got in (first, again):
        jax.tree.map(np.testing.assert_array_equal, got, wanted)


@pytest.mark.parametrize(
    "change",
    [
        {"static": "another"},
        {"given": {**GIVEN, "x": jnp.arange(4.0)}},
        {"given": {**GIVEN, "x": jnp.arange(3)}},
    ],
    ids=["static arguments", "shapes", "types"],
)
def test_what_differs_is_another_program(tmp_path, change) -> None:
    program(tmp_path)
    program(tmp_path, **change)
    assert len(TRACED) == 2 and len(files(tmp_path)) == 2


def test_other_sources_make_other_programs(tmp_path, monkeypatch) -> None:
    program(tmp_path)
    monkeypatch.setattr(kept, "_sources", lambda: "edited")
    program(tmp_path)
    assert len(TRACED) == 2


@pytest.mark.parametrize("edited", ["shapes.py", "layers/conv.py"])
def test_every_source_of_the_package_counts(tmp_path, monkeypatch, edited) -> None:
    shutil.copytree(kept.PACKAGE, tmp_path / "copy", ignore=shutil.ignore_patterns("assets"))
    known = kept._sources.__wrapped__()
    monkeypatch.setattr(kept, "PACKAGE", tmp_path / "copy")
    assert kept._sources.__wrapped__() == known
    (tmp_path / "copy" / edited).write_text("# edited")
    assert kept._sources.__wrapped__() != known


@pytest.mark.parametrize("damage", [b"", b"no program", None], ids=["empty", "foreign", "cut"])
def test_a_damaged_file_is_written_again(tmp_path, damage) -> None:
    program(tmp_path)
    path = files(tmp_path)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    got = program(tmp_path)(jax.tree.leaves(GIVEN))
    np.testing.assert_array_equal(got[0], 2 * GIVEN["x"])
    TRACED.clear()
    program(tmp_path)
    assert not TRACED


def test_a_folder_that_cannot_be_written_to_costs_nothing_but_time(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="COSYJAX_CACHE_DIR"):
        got = program(tmp_path / "file")(jax.tree.leaves(GIVEN))
    np.testing.assert_array_equal(got[0], 2 * GIVEN["x"])


def test_memory_that_is_given_away_is_taken(tmp_path) -> None:
    given = {**GIVEN, "x": jnp.arange(3.0) + 0}
    program(tmp_path, donate={**FREE, "x": True})(jax.tree.leaves(given))
    assert given["x"].is_deleted() and not given["key"].is_deleted()


def test_nothing_is_kept_where_jax_keeps_nothing(monkeypatch) -> None:
    values = {"jax_compilation_cache_dir": None}
    monkeypatch.setattr(kept.jax, "config", _Config(values))
    assert kept.folder(GIVEN) is None
    values["jax_compilation_cache_dir"] = "gs://bucket/cache"
    assert kept.folder(GIVEN) is None
    values["jax_compilation_cache_dir"] = "/cache"
    assert kept.folder(GIVEN) == Path("/cache/traced")


class _Config:
    def __init__(self, values: dict) -> None:
        self._values = values

    def __getattr__(self, name: str):
        return self._values[name]


def test_a_stream_of_kept_programs_sounds_the_same(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(kept, "folder", lambda _: tmp_path)
    spoken = []
    setup = dataclasses.replace(SETUP, batch=1, schedule=StreamConfig(5, 5))
    for _ in range(2):  # traced, and read from disk
        own = Streamer(tts(), setup)
        own.warmup("short")
        assert own.speaker.steps
        spoken.append(np.concatenate(list(own.stream(TEXT, voice="short", seed=3))))
    assert len(files(tmp_path)) == len(own.speaker.steps)
    plain = np.concatenate(list(Streamer(tts(), setup).stream(TEXT, voice="short", seed=3)))
    for wav in spoken:
        np.testing.assert_array_equal(wav, plain)
