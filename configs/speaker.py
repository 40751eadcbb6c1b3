"""The speaker encoder, learnt by telling the speakers of short pieces apart.

cosyjax train --config configs/speaker.py:num_speakers=60 --workdir runs/speaker \
    --set data.sources="[{'path': 'data/speech'}]"

`num_speakers` is at least the number of speakers in the train split; a label above it stops the run
with a loss that is no number. `size=cosyvoice2` is the architecture of the released encoder.
"""

from cosyjax.data.speaker import SpeakerData
from cosyjax.models.speaker_encoder import SpeakerEncoderConfig
from cosyjax.train.config import OptimizerConfig, TrainConfig
from cosyjax.train.tasks.speaker import SpeakerTask


def get_config(
    size: str = "small", num_speakers: int = 128, compute: str = "float32"
) -> TrainConfig:
    """0.2 M parameters for tens of voices, or CAM++ for thousands."""
    small = {"small": True, "cosyvoice2": False}[size]
    model = SpeakerEncoderConfig(compute=compute)
    if small:
        model = SpeakerEncoderConfig(
            head_dim=8,
            head_blocks=(1, 1),
            init_dim=64,
            growth=16,
            bottleneck=64,
            num_layers=(3, 4, 3),
            compute=compute,
        )
    return TrainConfig(
        stage="speaker",
        task=SpeakerTask(model, num_speakers=num_speakers),
        data=SpeakerData(batch_size=32 if small else 256, crop_s=1.5 if small else 3.0),
        optimizer=OptimizerConfig(
            peak_lr=2e-3 if small else 1e-3,
            warmup_steps=100 if small else 2_000,
            weight_decay=0.01,
            clip_norm=5.0,
        ),
        num_steps=2_000 if small else 100_000,
        eval_every=200 if small else 2_000,
        checkpoint_every=200 if small else 2_000,
        log_every=10,
    )
