"""Errors between what was to be said and what was heard, and how alike two voices are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Errors(NamedTuple):
    """Edits that turn the reference into what was heard."""

    substitutions: int
    deletions: int
    insertions: int
    num_units: int  # words or characters of the reference

    @property
    def num_edits(self) -> int:
        """All edits."""
        return self.substitutions + self.deletions + self.insertions


def count_errors(reference: Sequence[str], heard: Sequence[str]) -> Errors:
    """Counts the edits of a shortest alignment; of equally short ones, fewest substitutions."""
    # A cell is (edits, substitutions, deletions, insertions) up to a pair of positions.
    row = [(column, 0, 0, column) for column in range(len(heard) + 1)]
    for line, wanted in enumerate(reference, 1):
        diagonal, row[0] = row[0], (line, 0, line, 0)
        for column, found in enumerate(heard, 1):
            above, left = row[column], row[column - 1]
            wrong = int(wanted != found)
            row[column], diagonal = (
                min(
                    (diagonal[0] + wrong, diagonal[1] + wrong, diagonal[2], diagonal[3]),
                    (above[0] + 1, above[1], above[2] + 1, above[3]),
                    (left[0] + 1, left[1], left[2], left[3] + 1),
                ),
                above,
            )
    return Errors(*row[-1][1:], len(reference))


def error_rate(errors: Sequence[Errors]) -> float | None:
    """All edits over all units of the references; None where there are no units."""
    total = sum(one.num_units for one in errors)
    return sum(one.num_edits for one in errors) / total if total else None


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of the angle between two embeddings; 0 for one without a direction."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / norm if norm > 0 else 0.0
