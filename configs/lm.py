"""The text-speech language model: one dial for a family of sizes, or the released 0.5B.

cosyjax train --config configs/lm.py:depth=6 --workdir runs/lm \
    --set data.sources="[{'path': 'data/speech'}]"
cosyjax train --config configs/lm.py:size=cosyvoice2 --workdir runs/lm --set init_from=Qwen2-0.5B
cosyjax train --config configs/lm.py:size=cosyvoice2,lora=16 --workdir runs/voice \
    --set init_from=BUNDLE

A model of depth d has d layers, width 64 d and heads of 64: 6 is 16 M parameters, 12 is 88 M, 24 is
621 M with 4,096 text tokens. A step takes 16 bytes a parameter (itself, gradient, two moments), and
for 16 rows of 256 at depth 6 another 1.8 GB, or 0.6 GB with remat "dots", which computes attention
and norms again and keeps the other products. Longer rows add the square of their length.
"""

from cosyjax.data.lm import LMData
from cosyjax.models.text_speech_lm import TextSpeechLMConfig
from cosyjax.train.config import OptimizerConfig, TrainConfig
from cosyjax.train.tasks.lm import LMTask
from cosyjax.train.tasks.lora import LoRAConfig


def get_config(
    depth: int = 6,
    size: str = "",  # "cosyvoice2": the released sizes, whatever `depth` says
    text_vocab: int = 4096,  # ids of the text tokenizer; "cosyvoice2" has Qwen2's 151,936
    lora: int = 0,  # rank; 0 trains everything
    compute: str = "bfloat16",
) -> TrainConfig:
    """One size of the family."""
    large = size == "cosyvoice2" or depth > 8
    how = {"scan_layers": True, "remat": "dots" if large else "none", "compute": compute}
    model = TextSpeechLMConfig(**how) if size == "cosyvoice2" else family(depth, text_vocab, **how)
    length, rows = (2048, 8) if large else (512, 8)
    rate = (2e-4 if lora else 1e-4) if size == "cosyvoice2" else 1e-3 * 6 / depth
    return TrainConfig(
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
