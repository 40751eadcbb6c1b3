"""The stages by name, so that the JSON config of a checkpoint is read back to dataclasses."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from cosyjax.errors import InputError, nearest

# {stage: (task, pipeline)} as "module:class", imported when asked for. A project adds its own.
STAGES: dict[str, tuple[str, str]] = {
    "lm": ("cosyjax.train.tasks.lm:LMTask", "cosyjax.data.lm:LMData"),
    "flow": ("cosyjax.train.tasks.flow:FlowTask", "cosyjax.data.flow:FlowData"),
    "vocoder": ("cosyjax.train.tasks.vocoder:VocoderTask", "cosyjax.data.vocoder:VocoderData"),
    "tokenizer": (
        "cosyjax.train.tasks.tokenizer:TokenizerTask",
        "cosyjax.data.tokenizer:TokenizerData",
    ),
    "speaker": ("cosyjax.train.tasks.speaker:SpeakerTask", "cosyjax.data.speaker:SpeakerData"),
}


class Stage(NamedTuple):
    """The two dataclasses of a stage."""

    task: type[Any]  # a `train.task.Task`
    # A pipeline: `dataset(split, seed=, process=, num_processes=)` and `batch_size`, over all
    # processes. Its `free` names the fields that may change on resume, if there are any.
    data: type[Any]


def find_stage(name: str) -> Stage:
    """Imports the dataclasses of a stage.

    Raises:
      InputError: an unknown stage.
    """
    if name not in STAGES:
        raise InputError(f"no stage {name!r}; {nearest(name, STAGES)}")
    task, data = (_load(path) for path in STAGES[name])
    return Stage(task, data)


def _load(path: str) -> type[Any]:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
