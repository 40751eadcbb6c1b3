"""Every stage for under a minute on a CPU, on data that lies in the repository.

cosyjax train --config configs/smoke.py:stage=lm --workdir runs/smoke --set num_steps=20

Stages: tokenizer, speaker, lm, flow, vocoder. The models are too small to be of use; the point is
that everything runs, that losses fall, and that `cosyjax bundle` makes a bundle of the five.
"""

from pathlib import Path

from cosyjax.data.config import SourceConfig
from cosyjax.data.flow import FlowData
from cosyjax.data.lm import LMData
from cosyjax.data.speaker import SpeakerData
from cosyjax.data.tokenizer import TokenizerData
from cosyjax.data.vocoder import VocoderData
from cosyjax.errors import InputError, nearest
from cosyjax.models.asr_head import ASRHeadConfig
from cosyjax.models.discriminators import (
    DiscriminatorsConfig,
    MultiPeriodConfig,
    MultiResolutionConfig,
)
from cosyjax.models.estimator import EstimatorConfig
from cosyjax.models.flow import FlowConfig
from cosyjax.models.hift import HiFTConfig
from cosyjax.models.speaker_encoder import SpeakerEncoderConfig
from cosyjax.models.speech_tokenizer import SpeechTokenizerConfig
from cosyjax.models.text_speech_lm import TextSpeechLMConfig
from cosyjax.models.upsample_encoder import UpsampleEncoderConfig
from cosyjax.train.config import MeshConfig, OptimizerConfig, TrainConfig
from cosyjax.train.tasks.flow import FlowTask
from cosyjax.train.tasks.lm import LMTask
from cosyjax.train.tasks.speaker import SpeakerTask
from cosyjax.train.tasks.tokenizer import TokenizerTask
from cosyjax.train.tasks.vocoder import VocoderTask

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
SOURCES = (SourceConfig(str(DATA / "smoke")),)
TOKENIZER = str(DATA / "tokenizer")
VOCABULARY = 400  # text tokens
WIDTH = 64


def get_config(stage: str = "lm") -> TrainConfig:
    """The run of one stage."""
    stages = {
        "tokenizer": tokenizer,
        "speaker": speaker,
        "lm": lm,
        "flow": flow,
        "vocoder": vocoder,
    }
    if stage not in stages:
        raise InputError(f"stage={stage!r}; {nearest(stage, stages)}")
    task, data = stages[stage]()
    return TrainConfig(
        stage=stage,
        task=task,
        data=data,
        optimizer=OptimizerConfig(peak_lr=2e-3, warmup_steps=5),
        mesh=MeshConfig(data=1),  # batches of a few rows: one device
        num_steps=60,
        eval_every=20,
    )


def tokenizer() -> tuple[TokenizerTask, TokenizerData]:
    """FSQ with 3 ** 8 codes between two small encoders."""
    sizes = {"embed_dim": WIDTH, "num_heads": 2, "mlp_dim": 2 * WIDTH, "fsmn_width": 7}
    head = ASRHeadConfig(
        **sizes,
        num_encoder_layers=1,
        num_decoder_layers=1,
        vocab_size=VOCABULARY + 2,
        start_token=VOCABULARY,
        end_token=VOCABULARY + 1,
    )
    model = SpeechTokenizerConfig(**sizes, num_layers=1, normalise=True, asr=head)
    data = TokenizerData(
        sources=SOURCES,
        tokenizer=TOKENIZER,
        batch_size=4,
        buckets_s=(3.0,),
        row_multiple=1,
        text_per_s=24.0,
    )
    return TokenizerTask(model), data


def speaker() -> tuple[SpeakerTask, SpeakerData]:
    """Four voices to tell apart."""
    model = SpeakerEncoderConfig(
        head_dim=4,
        head_blocks=(1, 1),
        init_dim=16,
        growth=8,
        bottleneck=16,
        num_layers=(1, 1, 1),
    )
    task = SpeakerTask(model, num_speakers=4)
    return task, SpeakerData(sources=SOURCES, batch_size=8, crop_s=1.0)


def lm() -> tuple[LMTask, LMData]:
    """Two layers."""
    model = TextSpeechLMConfig(
        num_layers=2,
        embed_dim=WIDTH,
        num_heads=2,
        num_kv_heads=1,
        head_dim=32,
        mlp_dim=2 * WIDTH,
        rope_theta=1e4,
        text_vocab_size=VOCABULARY,
        scan_layers=True,
    )
    return LMTask(model), LMData(sources=SOURCES, batch_size=2, max_length=256)


def flow() -> tuple[FlowTask, FlowData]:
    """A layer of each kind."""
    encoder = UpsampleEncoderConfig(
        embed_dim=WIDTH, num_heads=2, mlp_dim=2 * WIDTH, num_layers=1, num_up_layers=1
    )
    estimator = EstimatorConfig(
        embed_dim=WIDTH,
        time_dim=2 * WIDTH,
        num_mid_stages=1,
        num_blocks=1,
        num_heads=2,
        head_dim=32,
        mlp_dim=2 * WIDTH,
    )
    data = FlowData(sources=SOURCES, batch_size=4, buckets=(75,), row_multiple=1)
    return FlowTask(FlowConfig(encoder=encoder, estimator=estimator)), data


def vocoder() -> tuple[VocoderTask, VocoderData]:
    """An eighth of the width, and two small judges."""
    model = HiFTConfig(base_channels=64, f0_channels=32, f0_layers=2)
    judges = DiscriminatorsConfig(
        MultiPeriodConfig(periods=(2, 3), channels=(4, 8)),
        MultiResolutionConfig(resolutions=((256, 60, 256),), channels=4),
    )
    task = VocoderTask(model, judges, source="recorded", initial_f0_hz=100.0)
    return task, VocoderData(sources=SOURCES, batch_size=2, crop_frames=12)
