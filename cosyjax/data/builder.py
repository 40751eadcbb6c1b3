"""Writes one part of a data folder through a tensorflow-datasets builder, without TensorFlow."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cosyjax.data.records import PART, VERSION, feature_spec, record_files
from cosyjax.errors import InputError
from cosyjax.io.atomic import atomic_folder

# Every record by itself, so that any one is read fast. Audio is compressed already, and mels
# shrink by a tenth only.
WRITER_OPTIONS = "group_size:1,uncompressed"
COLUMNS = ("id", "speaker", "lang", "duration_s")
_NO_ROOM = ("no space left", "file too large", "disk quota", "resource_exhausted")

Record = dict[str, Any]


def write_part(folder: Path, kind: str, records: Iterable[Record], about: dict[str, Any]) -> None:
    """Writes records as a part folder that appears whole or not at all.

    Args:
      folder: from `records.part_folder`.
      kind: "audio" or "features".
      records: in the order of their numbers; consumed while writing.
      about: what part.json says beside counts and columns; read after the last record, so the
        iterator may still fill it.

    Raises:
      InputError: the disk is full.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _telling_full_disk(folder), atomic_folder(folder, force=True) as partial:
        columns: dict[str, list[Any]] = {}
        codes: Counter[int] = Counter()
        noted = _noting(records, kind, columns, codes)
        first = next(noted, None)
        if first is not None:
            _build(partial, kind, itertools.chain([first], noted))
        num_records = len(columns.get("id", ()))
        _check_written(partial, kind, num_records)
        values = about | {"num_records": num_records, "columns": columns}
        if kind == "features":
            values["code_counts"] = {str(code): codes[code] for code in sorted(codes)}
        text = json.dumps(values, ensure_ascii=False, indent=1)
        (partial / PART).write_text(text + "\n", encoding="utf-8")


def _noting(
    records: Iterable[Record], kind: str, columns: dict[str, list[Any]], codes: Counter[int]
) -> Iterator[Record]:
    """Passes records on; keeps what batches are planned by, and how often each code occurs."""
    for record in records:
        row = {name: record[name] for name in COLUMNS}
        row["duration_s"] = round(float(record["duration_s"]), 6)
        if kind == "features":
            row["num_text_tokens"] = len(record["text_tokens"])
            row["num_speech_tokens"] = len(record["speech_tokens"])
            codes.update(int(code) for code in record["speech_tokens"])
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
        yield record


def _build(folder: Path, kind: str, records: Iterator[Record]) -> None:
    import tensorflow_datasets as tfds

    examples = ((f"{number:09d}", record) for number, record in enumerate(records))
    builder = builder_class(kind)(examples, data_dir=str(folder), file_format="array_record")
    tfds.disable_progress_bar()
    # It announces a download on standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()
    shutil.rmtree(folder / "downloads", ignore_errors=True)


@functools.cache
def builder_class(kind: str) -> Any:
    """The tensorflow-datasets builder of a kind of records.

    `tfds.builder_from_directory(part / kind / version)` reads what it writes, too.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import file_adapters

    base: Any = tfds.core.GeneratorBasedBuilder

    class Builder(base, skip_registration=True):  # type: ignore[call-arg]
        """Clips in the order given, under one split named "clips"."""

        name = kind
        VERSION = tfds.core.Version(VERSION)
        # For checksums of downloads. Finding it asks for importlib_resources, which is not always
        # there: tensorflow-datasets does not require it.
        code_path = None

        def __init__(self, examples: Iterator[tuple[str, Record]], **kwargs: Any) -> None:
            self._examples = examples
            super().__init__(**kwargs)

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self, features=feature_spec(kind), disable_shuffling=True
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"clips": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[str, Record]]:
            yield from self._examples

        def _example_writer(self) -> Any:
            return _writer_class()(file_adapters.FileFormat.ARRAY_RECORD)

    return Builder


@functools.cache
def _writer_class() -> Any:
    from array_record.python import array_record_module
    from tensorflow_datasets.core import writer
    from tensorflow_datasets.proto import tf_example_pb2

    class Writer(writer.ExampleWriter):
        """Same records, same bytes: a protocol buffer's map is otherwise written in any order."""

        def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> None:
            file = array_record_module.ArrayRecordWriter(os.fspath(path), WRITER_OPTIONS)
            for _, encoded in examples:
                example = tf_example_pb2.Example.FromString(encoded)
                file.write(example.SerializeToString(deterministic=True))
            file.close()

    return Writer


def _check_written(folder: Path, kind: str, num_records: int) -> None:
    """The C++ writer may meet a full disk in silence; what it wrote is counted."""
    from array_record.python import array_record_module

    held = 0
    for path in record_files(folder, kind):
        reader = array_record_module.ArrayRecordReader(str(path))
        held += reader.num_records()
        reader.close()
    if held != num_records:
        raise OSError(errno.ENOSPC, f"{held} of {num_records} records arrived on the disk")


@contextlib.contextmanager
def _telling_full_disk(folder: Path) -> Iterator[None]:
    """Libraries wrap the error of a full disk in their own; it is told by its words."""
    try:
        yield
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG)
        if full or any(words in str(error).lower() for words in _NO_ROOM):
            raise InputError(
                f"{folder}: the disk is full; nothing of this part was kept. Make room and run "
                "the same command again: it goes on from the finished parts"
            ) from error
        raise
