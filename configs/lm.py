"""The text-speech language model: one dial for a family of sizes, or the released 0.5B.

cosyjax train --config configs/lm.py:depth=6 --workdir runs/lm \
    --set data.sources="[{'path': 'data/speech'}]"
cosyjax train --config configs/lm.py:size=cosyvoice2 --workdir runs/lm --set init_from=Qwen2-0.5B
cosyjax train --config configs/lm.py:size=cosyvoice2,lora=16 --workdir runs/voice \
    --set init_from=BUNDLE
cosyjax train --config configs/lm.py:size=1.5B,chips=64 --workdir runs/1.5B ...

The dial is the depth d, and all else follows from it:
* width 64 d and d heads of 64, at most a quarter of them with keys of their own; an MLP of 8/3 of
  the width;
* learning rate 1e-3 * 6 / d, as one over the width;
* on a pod 2,048 d ** 1.75 tokens a step, to the nearest power of two, which grows as the root of
  the data that a model of this size is worth; a chip takes 16,384 of them.
LADDER names eight depths by their parameters. With 4,096 text tokens 6 is 16 M, 12 is 88 M, 24 is
621 M. A step takes 16 bytes a parameter (itself, gradient, two moments), and for 16 rows of 256 at
depth 6 another 1.8 GB, or 0.6 GB with remat "dots", which computes attention and norms again and
keeps the other products. Longer rows add the square of their length.
"""

import dataclasses
import math

from cosyjax.data.lm import LMData
from cosyjax.errors import InputError, nearest
from cosyjax.models.text_speech_lm import TextSpeechLMConfig
from cosyjax.train.config import MeshConfig, OptimizerConfig, TrainConfig, pod_mesh
from cosyjax.train.tasks.lm import LMTask
from cosyjax.train.tasks.lora import LoRAConfig

OFFICIAL = "cosyvoice2"
LADDER = {
    "10M": 5,
    "30M": 8,
    "0.1B": 12,
    "0.3B": 18,
    "0.5B": 22,
    "1.5B": 32,
    "3B": 40,
    "7B": 54,
}
ROW = 2048  # positions
ROWS_OF_CHIP = 8
LOSS_CHUNK = 512  # positions whose logits a chip holds


def get_config(
    depth: int = 6,
    size: str = "",  # of LADDER, or "cosyvoice2": the released sizes; `depth` is then not read
    text_vocab: int = 4096,  # ids of the text tokenizer; "cosyvoice2" has Qwen2's 151,936
    lora: int = 0,  # rank; 0 trains everything
    chips: int = 0,  # TPU chips of all slices together; 0: a CPU or a GPU
    slices: int = 1,
    compute: str = "bfloat16",
) -> TrainConfig:
    """One size of the family."""
    if size and size not in (OFFICIAL, *LADDER):
        raise InputError(f"size={size!r}; {nearest(size, (OFFICIAL, *LADDER))}")
    official, depth = size == OFFICIAL, LADDER.get(size, depth)
    large = official or depth > 8
    how = {"scan_layers": True, "remat": "dots" if large else "none", "compute": compute}
    model = TextSpeechLMConfig(**how) if official else family(depth, text_vocab, **how)
    length, rows = (ROW, 8) if large else (512, 8)
    rate = (2e-4 if lora else 1e-4) if official else 1e-3 * 6 / depth
    config = TrainConfig(
        stage="lm",
        task=LMTask(model, lora=LoRAConfig(rank=lora)),
        data=LMData(max_length=length, batch_size=rows, ratio=model.mix_ratio),
        optimizer=OptimizerConfig(
            peak_lr=rate,
            final_lr=0.1 * rate,
            warmup_steps=1_000 if large else 200,
            weight_decay=0.0 if lora else 0.1,
        ),
        num_steps=50_000 if large else 6_000,
        eval_every=2_000 if large else 250,
        checkpoint_every=2_000 if large else 250,
        log_every=10,
    )
    if not chips:
        return config
    tokens = ROW * ROWS_OF_CHIP * chips if official else batch_tokens(depth)
    return on_pod(config, pod_mesh(chips, model.embed_dim, slices), max(tokens // ROW, chips))


def family(depth: int, text_vocab: int, **how: object) -> TextSpeechLMConfig:
    """The member of `depth` layers; a quarter of the heads or fewer have keys of their own."""
    shares = [n for n in range(1, max(depth // 4, 1) + 1) if depth % n == 0]
    return TextSpeechLMConfig(
        num_layers=depth,
        embed_dim=64 * depth,
        num_heads=depth,
        num_kv_heads=max(shares),
        mlp_dim=64 * (8 * depth // 3),
        text_vocab_size=text_vocab,
        rope_theta=1e4,  # rows are far shorter than what the base of the 0.5B is made for
        **how,
    )


def batch_tokens(depth: int) -> int:
    """Tokens of a step on a pod."""
    return 2 ** round(math.log2(2048 * depth**1.75))


def on_pod(config: TrainConfig, mesh: MeshConfig, rows: int) -> TrainConfig:
    """The run on TPUs: attention by the splash kernel, the loss in pieces, rows of 2,048."""
    how = {"attention": "splash", "mlp_result": "bfloat16", "remat": "full"}
    model = dataclasses.replace(config.task.model, **how)
    task = dataclasses.replace(config.task, model=model, loss_chunk=LOSS_CHUNK)
    data = dataclasses.replace(config.data, max_length=ROW, batch_size=rows)
    return dataclasses.replace(config, task=task, data=data, mesh=mesh)
