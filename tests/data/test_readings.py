"""Texts with their pronunciation, as data for a language model."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from cosyjax import cli
from cosyjax.data.config import SourceConfig
from cosyjax.data.lm import LMData
from cosyjax.data.readings import write_readings
from cosyjax.data.records import open_source
from cosyjax.errors import InputError
from cosyjax.text.tokenizer import load_tokenizer

LETTERS_FOLDER = Path(__file__).parent / "tokenizer"
LETTERS = load_tokenizer(LETTERS_FOLDER)
ROWS = [{"text": f"word {i}", "phonemes": f"wˈɜɹd {i}"} for i in range(200)]


def write(path: Path, rows: list[dict]) -> Path:
    encoded = "\n".join(json.dumps(row) for row in rows).encode()
    path.write_bytes(gzip.compress(encoded) if path.suffix == ".gz" else encoded)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    parent = tmp_path_factory.mktemp("readings")
    manifest = write(parent / "rows.jsonl.gz", ROWS)
    write_readings(manifest, parent / "data", LETTERS, LETTERS, "phonemes")
    return parent / "data"


def test_a_reading_takes_the_place_of_the_speech(folder: Path):
    source = open_source(folder, "features", "train")
    record = source[7]
    row = ROWS[int(record["text"].split()[1])]
    assert record["text_tokens"].tolist() == LETTERS.encode(row["text"])
    assert record["speech_tokens"].tolist() == LETTERS.encode(row["phonemes"])


def test_every_text_is_in_one_split(folder: Path):
    texts = [
        [source[i]["text"] for i in range(len(source))]
        for source in (open_source(folder, "features", split) for split in ("train", "heldout"))
    ]
    assert sorted(texts[0] + texts[1]) == sorted(row["text"] for row in ROWS)
    assert texts[1] and not set(texts[0]) & set(texts[1])


def test_the_language_model_packs_readings_as_it_packs_speech(folder: Path):
    data = LMData(sources=(SourceConfig(str(folder)),), batch_size=2, max_length=64)
    batch = next(iter(data.dataset("train", seed=0)))
    assert batch["ids"].shape == (2, 64) and (batch["targets"] >= 0).sum() > 20


@pytest.mark.parametrize(
    "rows, told", [([{"text": "a"}], "row 1"), ([], "no rows"), (["a"], "row 1")]
)
def test_a_row_without_a_reading_is_named_and_nothing_is_left(tmp_path: Path, rows, told):
    manifest = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(InputError, match=told):
        write_readings(manifest, tmp_path / "data", LETTERS, LETTERS, "phonemes")
    assert not (tmp_path / "data").exists()


def test_the_command_says_how_many(tmp_path: Path, capsys):
    manifest, tokenizer = write(tmp_path / "rows.jsonl", ROWS[:3]), str(LETTERS_FOLDER)
    words = ["readings", str(manifest), str(tmp_path / "data")]
    assert cli.main([*words, "--letters", tokenizer, "--phones", tokenizer]) == 0
    assert "texts" in capsys.readouterr().out
    assert cli.main([*words, "--letters", tokenizer, "--phones", tokenizer]) == 2
    assert "choose another folder" in capsys.readouterr().err
