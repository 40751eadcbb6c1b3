"""A program to compile for chips that are not here, and what is known of it beforehand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Compilable:
    """One program of a config on a topology."""

    name: str  # train, prefill, decode, stream or features
    mesh: Mapping[str, int]
    rows: int  # of the batch, over all chips
    units: float  # tokens, or what else the stage counts, that one run processes
    audio_s: float  # seconds of audio that one run reads or makes
    flops: float | None  # that one run needs, counted from the sizes of the model
    params: int
    lower: Callable[[], Any]  # traces it
    causal: bool = True  # its attention by kernels sees what came before alone
