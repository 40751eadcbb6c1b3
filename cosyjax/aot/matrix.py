"""Many configs on many topologies: compiled one after another, kept as they are done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cosyjax.aot import table
from cosyjax.aot import topology as topologies
from cosyjax.aot.request import Request, compile_all
from cosyjax.errors import InputError
from cosyjax.io.atomic import atomic_file

BEGIN, END = "<!-- table: {name} -->", "<!-- /table -->"
Row = Mapping[str, Any]
Read = Callable[[str], Any]  # "FILE:key=value,..." -> config


class Entry(NamedTuple):
    """One program of one config on one topology."""

    name: str  # group and member, such as "train lm"
    config: str  # as --config takes it
    program: str
    topology: str
    slices: int = 1
    quick: bool = False  # compiled with the least effort

    @property
    def label(self) -> str:
        """What --only looks into."""
        return f"{self.name} {self.slices}x{self.topology}"

    @property
    def key(self) -> str:
        key = f"{self.name} | {self.slices} x {self.topology} | {self.config}"
        return key + " | quick" * self.quick


def compile_entry(entry: Entry, read: Read, tell: Callable[[str], None]) -> dict[str, Any]:
    """The report of one entry, as JSON, with what it was made from."""
    topology = topologies.parse(entry.topology, entry.slices)
    request = Request(read(entry.config), topology, (entry.program,), quick=entry.quick)
    (report,) = compile_all(request, tell)
    made = {"name": entry.name, "key": entry.key, "config": entry.config, "jax": jax.__version__}
    return made | report.as_json()


def compile_missing(
    entries: Sequence[Entry], rows: Path, read: Read, tell: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Compiles what `rows` does not hold yet, and adds it there at once.

    Args:
      entries: of the matrix.
      rows: a file of one JSON object a line; several commands may share it.
      read: makes a config of its words.
      tell: says how far it is.
    """
    for number, entry in enumerate(entries, 1):
        if entry.key in read_rows(rows):
            continue
        tell(f"{number} of {len(entries)}: {entry.label}")
        row = compile_entry(entry, read, lambda line: None)
        with rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        yield row


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """{key: row}; of rows with the same key the last.

    Raises:
      InputError: a line that is no row, such as one half-written by a run that was cut off.
    """
    found = {}
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else [], 1):
        try:
            row = json.loads(line)
            found[row["key"]] = row
        except (json.JSONDecodeError, KeyError, TypeError):
            raise InputError(f"{path}, line {number}: no report; remove the line") from None
    return found


def write_docs(path: Path, entries: Sequence[Entry], rows: Mapping[str, Row]) -> None:
    """Puts the tables of the entries between their marks in a document.

    Raises:
      InputError: the document lacks the marks of a table.
    """
    text = path.read_text()
    groups: dict[str, list[Row]] = {}
    for entry in entries:
        group, _, member = entry.name.partition(" ")
        if entry.key in rows:
            groups.setdefault(group, []).append({**rows[entry.key], "program": member})
    for name, members in groups.items():
        begin = BEGIN.format(name=name)
        head, mark, rest = text.partition(begin)
        if not mark or END not in rest:
            raise InputError(f"{path} has no {begin} with {END} after it")
        body = "\n".join(table.markdown(members))
        text = head + mark + "\n" + body + "\n" + END + rest.partition(END)[2]
    with atomic_file(path) as partial:
        partial.write_text(text)
