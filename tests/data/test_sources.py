"""Every layout gives the same clips: ids, transcripts, speakers, splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosyjax.data.sources import Clip, discover
from cosyjax.errors import InputError
from tests.data.corpora import write_folder, write_shard


def touch(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_folder_gives_a_clip_for_each_audio_with_a_transcript(tmp_path: Path):
    write_folder(tmp_path, 3)
    touch(tmp_path / "speaker-0" / "mute.wav")
    listing = discover([tmp_path])
    assert [clip.id for clip in listing.clips] == [
        "speaker-0/clip-000",
        "speaker-0/clip-002",
        "speaker-1/clip-001",
    ]
    assert listing.clips[2][2:6] == ("number b", "speaker-1", "en", None)
    assert [row.id for row in listing.rejected] == ["speaker-0/mute"]
    assert "no transcript" in listing.rejected[0].reason


def test_libritts_names_speakers_and_splits(tmp_path: Path):
    for name, text in (("train-clean-100/19/198/a", "One."), ("dev-clean/84/121/b", "Two.")):
        touch(tmp_path / f"{name}.wav")
        touch(tmp_path / f"{name}.normalized.txt", text)
        touch(tmp_path / f"{name}.original.txt", "1.")
    first, second = discover([tmp_path]).clips
    assert (first.text, first.speaker, first.split) == ("Two.", "84", "heldout")
    assert (second.text, second.speaker, second.split) == ("One.", "19", "train")
    (alone,) = discover([tmp_path / "train-clean-100"]).clips
    assert (alone.speaker, alone.split) == ("19", "train")


def test_ljspeech_takes_the_text_with_numbers_spelt_out(tmp_path: Path):
    folder = tmp_path / "LJSpeech-1.1"
    touch(folder / "wavs" / "LJ001-0001.wav")
    touch(folder / "metadata.csv", 'LJ001-0001|In 1, "x|In one, "x\nLJ001-0002\n')
    listing = discover([folder])
    clip = listing.clips[0]
    assert (clip.id, clip.text, clip.speaker) == ("LJ001-0001", 'In one, "x', "LJSpeech-1.1")
    assert [row.reason for row in listing.rejected] == ["the row has no text"]


def test_a_tsv_manifest_is_read_by_its_header(tmp_path: Path):
    manifest = touch(
        tmp_path / "list.tsv", "audio\ttext\tspeaker_id\tsplit\na.wav\t你好\tx\ttest\nb.wav\n"
    )
    listing = discover([manifest])
    assert listing.clips == (Clip("a", str(tmp_path / "a.wav"), "你好", "x", "zh", "heldout"),)
    assert "1 columns where the first line names 4" in listing.rejected[0].reason


def test_shards_are_found_by_their_manifests(tmp_path: Path):
    write_shard(tmp_path / "train", "s", 3)
    listing = discover([tmp_path])
    assert [clip.split for clip in listing.clips] == ["heldout", "train", "train"]
    assert listing.clips[1].locator == str(tmp_path / "train" / "s.tar/s-001.flac")
    assert listing.clips[1].stated_s == 0.5


def test_bad_rows_and_duplicated_ids_are_listed_and_the_first_is_kept(tmp_path: Path):
    manifest = touch(
        tmp_path / "m.jsonl",
        '{"id": "a", "path": "z.wav", "text": "x"}\n{"id": "a", "path": "y.wav", "text": "x"}\n'
        'nonsense\n\n[1]\n{"id": "b", "text": "no file"}\n',
    )
    listing = discover([manifest])
    assert [clip.locator for clip in listing.clips] == [str(tmp_path / "y.wav")]
    reasons = {row.id: row.reason for row in listing.rejected}
    assert "duplicated id" in reasons["a"] and "names no file" in reasons["b"]
    assert "not JSON" in reasons[f"{manifest}:3"] and "object" in reasons[f"{manifest}:5"]


def test_the_script_tells_the_language_where_nothing_else_does(tmp_path: Path):
    rows = ('{"path": "a.wav", "text": "今日は"}', '{"path": "b.wav", "text": "x", "lang": "de"}')
    manifest = touch(tmp_path / "m.jsonl", "\n".join(rows))
    assert [clip.lang for clip in discover([manifest]).clips] == ["ja", "de"]
    assert [clip.lang for clip in discover([manifest], "fr").clips] == ["fr", "de"]


@pytest.mark.parametrize("suffix", [".jsonl", ".tsv"])
def test_another_field_of_a_manifest_can_be_the_transcript(tmp_path: Path, suffix: str):
    rows = '{"path": "a.wav", "text": "read", "phonemes": "ɹˈɛd"}\n{"path": "b.wav", "text": "no"}'
    if suffix == ".tsv":
        rows = "path\ttext\tphonemes\na.wav\tread\tɹˈɛd\nb.wav\tno\t"
    manifest = touch(tmp_path / f"m{suffix}", rows)
    assert [clip.text for clip in discover([manifest], text_key="phonemes").clips] == ["ɹˈɛd", ""]


@pytest.mark.parametrize("name", ["missing", "empty", "notes.txt"])
def test_what_is_no_corpus_is_refused_with_the_known_layouts(tmp_path: Path, name: str):
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "notes.txt", "x")
    with pytest.raises(InputError, match="known layouts"):
        discover([tmp_path / name])
