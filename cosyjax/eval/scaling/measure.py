"""From the workdir of a finished run of the language model to its row in the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cosyjax.data.skips import SkipLog
from cosyjax.errors import InputError
from cosyjax.eval.scaling.table import Row
from cosyjax.models.text_speech_lm import TextSpeechLMConfig
from cosyjax.train.checkpoint import Checkpoints, holds_checkpoint
from cosyjax.train.config import TrainConfig, read_config
from cosyjax.train.report import read_metrics

COUNTED_RECORDS = 1_000_000  # what a longer run has read is extrapolated from so many


def measure_run(workdir: Path, budget_flops: float, commit: str) -> Row:
    """Reads what a run has computed and reached; the data folders must be where it found them.

    Args:
      workdir: of `cosyjax train`.
      budget_flops: that the run was asked to spend.
      commit: of the program that ran.

    Raises:
      InputError: no run, one of another stage, or one that has not come to its end.
    """
    config = _config_of(workdir)
    last = next((row for row in reversed(read_metrics(workdir)) if "heldout_loss" in row), {})
    if last.get("step") != config.num_steps or "heldout_loss_per_speech_token" not in last:
        raise InputError(
            f"{workdir}: no held-out loss of step {config.num_steps}, the last of the run; "
            "let `cosyjax train` finish it, with eval_every=0 or more"
        )
    model: TextSpeechLMConfig = config.task.model
    positions = config.data.batch_size * config.data.max_length
    tokens = positions * config.num_steps
    cost = config.task.cost({"ids": (config.data.batch_size, config.data.max_length)})
    epochs, speech_tokens = count_seen(config)
    return Row(
        depth=model.num_layers,
        budget_flops=budget_flops,
        width=model.embed_dim,
        params=model.num_params(),
        non_embedding_params=non_embedding_params(model),
        tokens=tokens,
        speech_tokens=speech_tokens,
        flops=cost.flops * config.num_steps,
        flops_6nd=6.0 * non_embedding_params(model) * tokens,
        steps=config.num_steps,
        batch_tokens=positions,
        peak_lr=config.optimizer.peak_lr,
        loss_per_speech_token=last["heldout_loss_per_speech_token"],
        loss_per_pair=last["heldout_loss_per_pair"],
        epochs=epochs,
        seconds=round(_seconds(read_metrics(workdir)), 1),
        commit=commit,
    )


def non_embedding_params(model: TextSpeechLMConfig) -> int:
    """Parameters without the tables of text, speech and special ids, which are only looked up."""
    rows = model.num_params() - model.num_layers * model.num_block_params()
    head = model.speech_vocab_size * (model.embed_dim + 1) + model.embed_dim
    return model.num_params() - (rows - head)


def count_seen(config: TrainConfig) -> tuple[float, int]:
    """How often a run has read a record on average, and how many speech tokens in all."""
    sources = config.data.open("train")
    plan = config.data.plan(sources, "train", config.seed, SkipLog())
    lengths = [source.column("num_speech_tokens") for source in sources]
    records, tokens, steps = 0, 0, 0
    while steps < config.num_steps and records < COUNTED_RECORDS:
        draws = [draw for row in plan[steps].rows for draw in row]
        records += len(draws)
        tokens += sum(int(lengths[draw.source][draw.record]) for draw in draws)
        steps += 1
    scale = config.num_steps / steps
    return round(scale * records / sum(map(len, sources)), 3), round(scale * tokens)


def _config_of(workdir: Path) -> TrainConfig:
    if not holds_checkpoint(workdir):
        raise InputError(f"{workdir} holds no checkpoint; give the --workdir of a training run")
    checkpoints = Checkpoints(workdir)
    step = checkpoints.latest()
    assert step is not None, "a workdir with a checkpoint has a latest step"
    config = read_config(checkpoints.config(step))
    checkpoints.close()
    if config.stage != "lm":
        raise InputError(f"{workdir} is a run of stage {config.stage!r}; 'lm' is needed")
    return config


def _seconds(rows: list[dict[str, Any]]) -> float:
    """Time of all steps from the rates of the log; those before the first rate took as long."""
    rates = [(int(row["step"]), row["steps_per_s"]) for row in rows if row.get("steps_per_s")]
    before, seconds = 0, 0.0
    for step, rate in rates:
        seconds += (step - before) / rate
        before = step
    return seconds
