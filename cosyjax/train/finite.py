"""A loss that is not finite ends the run before anything of it is saved."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax.errors import InputError

SHOWN = 16  # record ids in the message; all are in the file
FILE = "nonfinite.json"


def check_finite(
    step: int,
    values: Mapping[str, float],
    records: np.ndarray | None,
    pipeline: Any,
    workdir: Path,
) -> None:
    """Looks at the losses and gradient norms of a step.

    Args:
      step: the step's number.
      values: its metrics.
      records: record numbers of the batch; -1 where a row is empty.
      pipeline: names them.
      workdir: takes the whole list, in nonfinite.json.

    Raises:
      InputError: one is not finite; names the step and the record ids.
    """
    watched = [n for n in values if n.split("/")[-1] in ("loss", "grad_norm")]
    bad = {name: values[name] for name in watched if not math.isfinite(values[name])}
    if not bad:
        return
    names = name_batch(pipeline, records)
    details = {"step": step, "metrics": {k: str(v) for k, v in values.items()}, "records": names}
    (workdir / FILE).write_text(json.dumps(details, indent=2))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    raise InputError(
        f"step {step}: {', '.join(f'{k} is {v}' for k, v in bad.items())}. Records of the batch: "
        f"{', '.join(names[:SHOWN]) or 'unknown'}{more} (all in {workdir / FILE}). Look at these; "
        "else lower peak_lr or clip_norm. The checkpoints before are whole"
    )


def name_batch(pipeline: Any, records: np.ndarray | None) -> list[str]:
    """The ids of a batch's records."""
    if records is None:
        return []
    numbers = [int(n) for n in np.unique(records) if n >= 0]
    if hasattr(pipeline, "name_records"):
        return list(pipeline.name_records("train", numbers))
    from cosyjax.data.pipeline import name_records

    return name_records(pipeline, "train", numbers)
