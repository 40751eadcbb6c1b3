"""The speaker encoder of cosyjax-mini.

cosyjax train --config configs/mini_speaker.py --workdir runs/mini/speaker \
    --set data.sources="[{'path': 'data/mini'}]"
"""

from cosyjax.data.speaker import SpeakerData
from cosyjax.models.speaker_encoder import SpeakerEncoderConfig
from cosyjax.train.config import OptimizerConfig, TrainConfig
from cosyjax.train.tasks.speaker import SpeakerTask

NUM_SPEAKERS = 64  # the train split has 42


def get_config() -> TrainConfig:
    """0.2 M parameters."""
    model = SpeakerEncoderConfig(
        head_dim=8,
        head_blocks=(1, 1),
        init_dim=64,
        growth=16,
        bottleneck=64,
        num_layers=(3, 4, 3),
    )
    return TrainConfig(
        stage="speaker",
        task=SpeakerTask(model, num_speakers=NUM_SPEAKERS),
        data=SpeakerData(batch_size=32, crop_s=1.5),
        optimizer=OptimizerConfig(
            peak_lr=2e-3, schedule="cosine", warmup_steps=100, weight_decay=0.01, clip_norm=5.0
        ),
        num_steps=1_000,
        eval_every=200,
        checkpoint_every=200,
        log_every=10,
    )
