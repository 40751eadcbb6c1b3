"""The vocoder against its discriminators; the pitch comes with the features.

cosyjax train --config configs/vocoder.py:size=small --workdir runs/vocoder \
    --set data.sources="[{'path': 'data/speech'}]"

`size=cosyvoice2` is the released model under the official recipe; on a pod, `chips=256` gives each
chip 8 of its crops. `causal=true` trains the vocoder
that streams exactly: it hears `lookahead` frames of mel (20 ms each) beyond the present one.
"""

import dataclasses

from cosyjax.data.vocoder import VocoderData
from cosyjax.losses.gan import GanLossConfig
from cosyjax.models.discriminators import (
    DiscriminatorsConfig,
    MultiPeriodConfig,
    MultiResolutionConfig,
)
from cosyjax.models.hift import HiFTConfig
from cosyjax.train.config import MeshConfig, OptimizerConfig, TrainConfig, pod_mesh
from cosyjax.train.tasks.vocoder import VocoderTask

ROWS_OF_CHIP = 8


def get_config(
    size: str = "small",
    compute: str = "float32",
    causal: bool = False,
    lookahead: int = 4,
    chips: int = 0,  # TPU chips of all slices together; 0: a CPU or a GPU
) -> TrainConfig:
    """1.4 M parameters for hours of speech on a CPU, or the released size."""
    small = {"small": True, "cosyvoice2": False}[size]
    task = small_task(compute) if small else official_task(compute)
    model = dataclasses.replace(task.model, causal=causal, lookahead=lookahead)
    return TrainConfig(
        stage="vocoder",
        task=dataclasses.replace(task, model=model),
        data=VocoderData(
            batch_size=ROWS_OF_CHIP * chips if chips else 8 if small else 64,
            crop_frames=24 if small else 51,  # 0.48 s, 1.02 s
        ),
        optimizer=OptimizerConfig(
            peak_lr=1e-3 if small else 2e-4,
            schedule="cosine" if small else "constant",
            warmup_steps=100 if small else 0,
            b1=0.8 if small else 0.9,
            b2=0.99 if small else 0.999,
            clip_norm=5.0,
        ),
        mesh=pod_mesh(chips) if chips else MeshConfig(),
        num_steps=10_000 if small else 500_000,
        eval_every=500 if small else 5_000,
        eval_batches=20,
        checkpoint_every=500 if small else 5_000,
        log_every=10,
    )


def official_task(compute: str) -> VocoderTask:
    """All defaults."""
    judges = DiscriminatorsConfig(
        MultiPeriodConfig(compute=compute), MultiResolutionConfig(compute=compute)
    )
    return VocoderTask(HiFTConfig(compute=compute), judges)


def small_task(compute: str) -> VocoderTask:
    """A quarter of the width, and a source that does not wait for the pitch to be learnt."""
    model = HiFTConfig(base_channels=128, f0_channels=128, compute=compute)
    judges = DiscriminatorsConfig(
        MultiPeriodConfig(periods=(2, 3, 5), channels=(8, 16, 32, 64), compute=compute),
        MultiResolutionConfig(
            resolutions=((1024, 240, 1024), (256, 60, 256)), channels=8, compute=compute
        ),
    )
    # The pitch's L1 is in Hz: at its official weight it would fill the clipped gradient.
    losses = GanLossConfig(f0_weight=0.05)
    return VocoderTask(model, judges, losses, source="recorded", initial_f0_hz=100.0)
