"""Data folders made by `cosyjax prepare`: their layout, and records by number.

    prepare.json                                        written once every part is there
    rejected.jsonl                                      clips that were refused, with the reason
    <kind>/<split>/part-00000-of-00008/part.json        counts and columns of the part
    <kind>/<split>/part-00000-of-00008/<kind>/<version> a tensorflow-datasets folder, ArrayRecord

A part without records has its part.json alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax import shapes
from cosyjax.errors import InputError, nearest
from cosyjax.io import files
from cosyjax.io.mounts import check_mounted

VERSION = "1.0.0"
KINDS = ("audio", "features")
SPLITS = ("train", "heldout")
FINISHED = "prepare.json"
PART = "part.json"


def part_folder(path: Path, kind: str, split: str, part: tuple[int, int]) -> Path:
    """The folder of part `part[0]` of `part[1]`."""
    index, num_parts = part
    return path / kind / split / f"part-{index:05d}-of-{num_parts:05d}"


@functools.cache
def feature_spec(kind: str) -> Any:
    """The tensorflow-datasets features of a record; arrays are kept as raw bytes."""
    import tensorflow_datasets as tfds

    def array(shape: tuple[int | None, ...], dtype: Any) -> Any:
        encoding = tfds.features.Encoding.BYTES
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=encoding)

    text = tfds.features.Text
    common = {"id": text(), "text": text(), "speaker": text(), "lang": text()}
    if kind == "audio":
        # The file's own bytes: tfds.features.Audio needs TensorFlow.
        return tfds.features.FeaturesDict(common | {"audio": np.object_, "duration_s": np.float32})
    arrays = {
        "text_tokens": array((None,), np.int32),
        "speech_tokens": array((None,), np.int32),
        "speaker_embedding": array((None,), np.float32),
        "mel": array((None, shapes.NUM_MELS), np.float16),
        "f0": array((None,), np.float32),
    }
    return tfds.features.FeaturesDict(common | arrays | {"duration_s": np.float32})


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file that `cosyjax prepare` wrote; raises InputError where it cannot be read."""
    return files.read_json(path, "; run `cosyjax prepare` again")


def read_summary(path: Path | str) -> dict[str, Any]:
    """Reads prepare.json.

    Raises:
      InputError: no data folder there, one that is not finished, or of another version.
    """
    check_mounted(path)
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; cosyjax prepare makes one from recordings")
    if not (folder / FINISHED).is_file():
        if any((folder / kind).is_dir() for kind in KINDS):
            hint = "its preparation did not finish: run the same cosyjax prepare again"
        else:
            hint = f"make one with `cosyjax prepare {folder} OUT`"
        raise InputError(f"{folder}: no data folder there (no {FINISHED}); {hint}")
    summary = read_json(folder / FINISHED)
    if summary.get("version") != VERSION:
        found = summary.get("version")
        raise InputError(f"{folder}: data of version {found}; {VERSION} is needed: prepare anew")
    return summary


class RecordSource:
    """Records of one kind and split by number, over the parts in order.

    Pickles as its arguments, so that worker processes open the files themselves.
    """

    def __init__(self, path: Path | str, kind: str, split: str) -> None:
        self._path, self._kind, self._split = Path(path), kind, split
        self._open()

    def _open(self) -> None:
        from array_record.python import array_record_data_source

        summary = read_summary(self._path)
        num_parts = int(summary["num_parts"])
        places = [(index, num_parts) for index in range(num_parts)]
        folders = [part_folder(self._path, self._kind, self._split, place) for place in places]
        self._parts = [read_json(folder / PART) for folder in folders]
        self._length = sum(int(part["num_records"]) for part in self._parts)
        files = [str(file) for folder in folders for file in record_files(folder, self._kind)]
        self._records = None
        held = 0
        if files:
            try:
                self._records = array_record_data_source.ArrayRecordDataSource(files)
                held = len(self._records)
            except Exception as error:  # the C++ reader raises whatever it likes
                raise InputError(f"{self!r}: files cannot be read: {error}") from error
        if held != self._length:
            raise InputError(
                f"{self!r}: {held} records where {self._length} were written; a file is missing "
                "or damaged: delete its part folder and run cosyjax prepare again"
            )

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Returns record `number`: texts as str, `audio` as bytes, arrays as numpy."""
        if not 0 <= number < self._length or self._records is None:
            raise IndexError(f"{self!r} has records 0 to {self._length - 1}, not {number}")
        try:
            return _decoded(self._records[int(number)], self._kind)
        except Exception as error:  # damaged bytes end in errors of many libraries
            raise InputError(
                f"{self!r}: record {number} ({self.column('id')[number]}) is unreadable: {error}; "
                "delete its part folder and run cosyjax prepare again"
            ) from error

    def column(self, name: str) -> list[Any]:
        """One value for every record, without reading records.

        Args:
          name: "id", "speaker", "lang", "duration_s"; in features also "num_text_tokens" and
            "num_speech_tokens".
        """
        filled = [part for part in self._parts if part["num_records"]]
        if filled and name not in filled[0]["columns"]:
            raise InputError(
                f"{self!r} has no column {name!r}; {nearest(name, filled[0]['columns'])}"
            )
        return [value for part in filled for value in part["columns"][name]]

    def __repr__(self) -> str:
        return f"RecordSource({str(self._path)!r}, {self._kind!r}, {self._split!r})"

    def __reduce__(self) -> Any:
        return RecordSource, (self._path, self._kind, self._split)


def record_files(folder: Path, kind: str) -> list[Path]:
    """The ArrayRecord files of a part, in order; none for an empty part."""
    return sorted((folder / kind / VERSION).glob("*.array_record-*"))


def read_part(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Reads the records of one part in order."""
    from array_record.python import array_record_module

    for path in record_files(folder, kind):
        reader = array_record_module.ArrayRecordReader(str(path))
        for number in range(reader.num_records()):
            yield _decoded(reader.read([number])[0], kind)
        reader.close()


def _decoded(encoded: bytes, kind: str) -> dict[str, Any]:
    record = feature_spec(kind).deserialize_example_np(encoded)
    texts = {n: v.decode() for n, v in record.items() if isinstance(v, bytes) and n != "audio"}
    return {**record, **texts}


def open_source(path: Path | str, kind: str, split: str) -> RecordSource:
    """Opens the records of a data folder.

    Args:
      path: made by `cosyjax prepare`.
      kind: "audio" (the encoded files) or "features".
      split: "train" or "heldout".

    Returns:
      A random-access source; it pickles, and its repr is stable, as grain asks for.

    Raises:
      InputError: no finished data folder, another kind or split, or damaged files.
    """
    if kind not in KINDS:
        raise InputError(f"kind={kind!r}; {nearest(kind, KINDS)}")
    if split not in SPLITS:
        raise InputError(f"split={split!r}; {nearest(split, SPLITS)}")
    summary = read_summary(path)
    if kind not in summary:
        hint = f"make them with `cosyjax prepare {path} {path} --bundle BUNDLE`"
        raise InputError(f"{path} holds no {kind}; {hint}")
    if split not in summary[kind]["splits"]:
        raise InputError(f"{path} has no {split} split; {nearest(split, summary[kind]['splits'])}")
    # Not first in a reading thread: while tensorflow-datasets is imported, every other import of
    # the process goes through its lazy one, on which those of a compilation in another thread fail.
    feature_spec(kind)
    return RecordSource(path, kind, split)
