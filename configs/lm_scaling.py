"""One run of a scaling law: one size of the language model's family and one compute budget.

cosyjax train --config configs/lm_scaling.py:depth=2,flops=1e12,head=8,text_vocab=276 \
    --workdir runs/scaling/d2 --set data.sources="[{'path': 'data/speech'}]"
cosyjax train --config configs/lm_scaling.py:depth=12,flops=1e19,rows=64,chips=8 ...

`launch/scaling_laws.sh` runs a grid of these and docs/scaling.md says what is counted. The sizes
are those of configs/lm.py, narrower with a smaller `head`. The budget gives the number of steps,
and the schedule ends with the run, so that runs of one budget compare: same data in the same order,
same batch, same held-out set.
"""

import dataclasses
import runpy
from pathlib import Path

from cosyjax.data.lm import LMData
from cosyjax.errors import InputError
from cosyjax.train.config import OptimizerConfig, TrainConfig, pod_mesh
from cosyjax.train.tasks.lm import LMTask

LM = runpy.run_path(str(Path(__file__).with_name("lm.py")))


def get_config(
    depth: int = 2,
    flops: float = 3e12,  # of all steps, forward and backward, attention and head included
    head: int = 64,  # width of a head, and of the model per layer
    text_vocab: int = 4096,  # ids of the text tokenizer
    length: int = 320,  # positions of a row; on TPUs that of configs/lm.py
    rows: int = 4,  # of a batch, the same for all sizes
    rate: float = 6e-3,  # peak learning rate at width 64; it falls as 1 / width
    chips: int = 0,  # TPU chips; 0: a CPU or a GPU
    compute: str = "bfloat16",
) -> TrainConfig:
    """The run of `depth` layers and width `head * depth` that costs `flops`."""
    text_per_block = (10, 12) if text_vocab < 1000 else (5, 15)  # letters, or pieces of words
    how = {"scan_layers": True, "attention": "by_head", "mix_ratio": text_per_block}
    narrow = {"head_dim": head, "embed_dim": head * depth, "mlp_dim": head * (8 * depth // 3)}
    model = dataclasses.replace(LM["family"](depth, text_vocab, compute=compute, **how), **narrow)
    task, length = LMTask(model, loss_chunk=128), LM["ROW"] if chips else length
    data = LMData(max_length=length, batch_size=rows, ratio=model.mix_ratio)
    num_steps = round(flops / task.cost({"ids": (rows, length)}).flops)
    if num_steps < 1:
        raise InputError(
            f"flops={flops:g} is less than one step of {rows} rows of {length} at depth {depth}; "
            "give a larger budget or a smaller depth"
        )
    peak = rate * 64 / model.embed_dim
    config = TrainConfig(
        stage="lm",
        task=task,
        data=data,
        optimizer=OptimizerConfig(
            peak_lr=peak,
            final_lr=0.1 * peak,
            schedule="cosine",
            warmup_steps=max(1, num_steps // 10),
            b2=0.98,
            weight_decay=0.1,
        ),
        num_steps=num_steps,
        samples=False,
        checkpoint_every=2_000,
        keep_last=1,
        keep_best=0,
        log_every=10,
    )
    return LM["on_pod"](config, pod_mesh(chips, model.embed_dim), rows) if chips else config
