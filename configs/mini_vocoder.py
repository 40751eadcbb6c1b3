"""The causal vocoder of cosyjax-mini, in three runs, each from the one before.

cosyjax train --config configs/mini_vocoder.py:run=mel --workdir runs/mini/vocoder_mel \
    --set data.sources="[{'path': 'data/mini'}]"
cosyjax train --config configs/mini_vocoder.py:run=pitch --workdir runs/mini/vocoder_pitch \
    --set data.sources="[{'path': 'data/mini'}]" --set init_from=runs/mini/vocoder_mel
cosyjax train --config configs/mini_vocoder.py --workdir runs/mini/vocoder \
    --set data.sources="[{'path': 'data/mini'}]" --set init_from=runs/mini/vocoder_pitch

Most of what there is to learn needs no judges, and a step without them takes 40 % of the time. The
pitch wants many more frames than the sound does, and costs next to nothing by itself.
"""

from cosyjax.data.vocoder import VocoderData
from cosyjax.losses.gan import FULL_BAND_MEL, GanLossConfig
from cosyjax.models.discriminators import (
    DiscriminatorsConfig,
    MultiPeriodConfig,
    MultiResolutionConfig,
)
from cosyjax.models.hift import HiFTConfig
from cosyjax.ops.mel import MelConfig
from cosyjax.train.config import OptimizerConfig, TrainConfig
from cosyjax.train.tasks.vocoder import VocoderTask

# Beside the features' window of 80 ms, shorter ones place what is short in time.
MELS = (
    FULL_BAND_MEL,
    MelConfig(n_fft=1024, hop_samples=256, window_samples=1024, fmax_hz=None),
    MelConfig(n_fft=512, hop_samples=128, window_samples=512, num_mels=40, fmax_hz=None),
    MelConfig(n_fft=256, hop_samples=64, window_samples=256, num_mels=20, fmax_hz=None),
)


def get_config(run: str = "judges") -> TrainConfig:
    """1.4 M parameters; `run` is "mel", "pitch" or "judges"."""
    num_steps = {"mel": 3_000, "pitch": 1_000, "judges": 1_600}[run]
    judges, pitch = run == "judges", run == "pitch"
    model = HiFTConfig(base_channels=128, f0_channels=128, causal=True, lookahead=4)
    discriminators = DiscriminatorsConfig(
        MultiPeriodConfig(periods=(2, 3, 5, 7), channels=(8, 16, 32, 64)),
        MultiResolutionConfig(
            resolutions=((1024, 256, 1024), (512, 128, 512), (256, 64, 256)), channels=8
        ),
    )
    # The pitch's L1 is in Hz: at its official weight it would fill the clipped gradient.
    losses = GanLossConfig(mel_weight=45.0 / len(MELS), f0_weight=0.05, mels=MELS)
    task = VocoderTask(
        model,
        discriminators,
        losses,
        source="recorded",
        adversarial=judges,
        pitch_only=pitch,
        initial_f0_hz=100.0,
    )
    return TrainConfig(
        stage="vocoder",
        task=task,
        data=VocoderData(batch_size=16 if pitch else 8, crop_frames=60 if pitch else 24),
        optimizer=OptimizerConfig(
            peak_lr=4e-4 if judges else 1e-3,
            final_lr=1e-4,
            schedule="wsd",
            warmup_steps=100,
            decay_steps=400 if judges else 500,
            b1=0.8,
            b2=0.99,
            clip_norm=5.0,
        ),
        num_steps=num_steps,
        eval_every=250,
        eval_batches=10,
        checkpoint_every=250,
        log_every=10,
    )
