"""What every pipeline is configured with, and what it asks of a source of records."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

from cosyjax.errors import InputError

RECORDS_PER_SOURCE = 10**9  # a batch names record r of source s as r + s * this


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One data folder of a mixture."""

    path: str = ""  # made by `cosyjax prepare`
    weight: float = 1.0  # share of the rows, next to those of the other sources; above 0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise InputError(f"{self.path}: weight={self.weight}; above 0, or leave the source out")


class Source(Protocol):
    """Records by number, as `records.open_source` returns them."""

    def __len__(self) -> int:
        """Number of records."""

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Reads one record; InputError where it is damaged."""

    def column(self, name: str) -> list[Any]:
        """One value of every record, without reading them."""


def rows_of_process(batch_size: int, process: int, num_processes: int) -> slice:
    """The rows of a global batch that one process reads.

    Raises:
      InputError: the rows do not divide, or there is no such process.
    """
    if not 0 <= process < num_processes:
        raise InputError(f"process={process} of {num_processes}; 0 to {num_processes - 1} exist")
    if batch_size % num_processes:
        raise InputError(
            f"a batch of {batch_size} rows does not divide among {num_processes} processes; "
            "batch_size counts the rows of all of them: choose a multiple, of row_multiple too "
            "where there is one"
        )
    share = batch_size // num_processes
    return slice(process * share, (process + 1) * share)
