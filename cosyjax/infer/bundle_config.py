"""What a bundle says of its models and of how it speaks by default."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from cosyjax import shapes
from cosyjax.config import override
from cosyjax.errors import InputError, nearest
from cosyjax.infer.decode import SamplingConfig
from cosyjax.infer.modules import MODULES
from cosyjax.models.flow import FlowConfig
from cosyjax.models.hift import HiFTConfig
from cosyjax.models.speaker_encoder import SpeakerEncoderConfig
from cosyjax.models.speech_tokenizer import SpeechTokenizerConfig
from cosyjax.models.text_speech_lm import TextSpeechLMConfig

FORMAT_VERSION = 1
GENERATION_KEYS = ("sampling", "min_tokens_per_text_token", "max_tokens_per_text_token")


@dataclasses.dataclass(frozen=True)
class BundleConfig:
    """Sizes of all models and the defaults of inference. The defaults are CosyVoice2-0.5B."""

    lm: TextSpeechLMConfig = TextSpeechLMConfig()
    flow: FlowConfig = FlowConfig()
    vocoder: HiFTConfig = HiFTConfig()
    speech_tokenizer: SpeechTokenizerConfig = SpeechTokenizerConfig()
    speaker_encoder: SpeakerEncoderConfig = SpeakerEncoderConfig()
    sampling: SamplingConfig = SamplingConfig()
    min_tokens_per_text_token: float = 2.0  # speech tokens before which the LM may not end
    max_tokens_per_text_token: float = 20.0  # speech tokens after which it is stopped
    split_chinese_tokens: bool = False  # see text.tokenizer
    default_voice: str = ""  # spoken with where none is named; "" for the first by name
    sample_rate_hz: int = shapes.SAMPLE_RATE_HZ
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if not 1 <= self.format_version <= FORMAT_VERSION:
            raise InputError(
                f"format_version={self.format_version}; this cosyjax reads 1 to {FORMAT_VERSION}: "
                "update cosyjax"
            )
        if self.sample_rate_hz != self.vocoder.sample_rate_hz:
            rates = f"sample_rate_hz={self.sample_rate_hz}, vocoder {self.vocoder.sample_rate_hz}"
            raise InputError(f"{rates}: both are the rate of the audio")
        codes = (self.lm.codebook_size, self.flow.vocab_size, self.speech_tokenizer.codebook_size)
        _check_equal("speech codes", ("lm", "flow", "speech_tokenizer"), codes)
        dims = (self.flow.speaker_dim, self.speaker_encoder.embed_dim)
        _check_equal("speaker dimensions", ("flow", "speaker_encoder"), dims)
        mels = (self.flow.estimator.num_mels, self.vocoder.num_mels)
        _check_equal("mel bins", ("flow", "vocoder"), mels)
        frame = (shapes.SAMPLES_PER_FRAME, self.vocoder.samples_per_frame)
        _check_equal("samples per mel frame", ("flow", "vocoder"), frame)

    def of(self, module: str) -> Any:
        """The config of one of MODULES."""
        return getattr(self, MODULES[module].field)


def generation(config: BundleConfig, assignments: Sequence[str]) -> BundleConfig:
    """Returns `config` with other defaults of how it speaks; sizes are those of the parameters.

    Raises:
      InputError: not `key=value`, an unknown key, or a key that says what the models are.
    """
    allowed = (*GENERATION_KEYS, "default_voice")
    for assignment in assignments:
        key = assignment.partition("=")[0].split(".")[0].strip()
        if key not in allowed:
            raise InputError(f"{assignment!r} cannot be set; {nearest(key, allowed)}")
        config = override(config, assignment)
    return config


def _check_equal(what: str, modules: tuple[str, ...], sizes: tuple[int, ...]) -> None:
    if len(set(sizes)) > 1:
        given = ", ".join(f"{module} {size}" for module, size in zip(modules, sizes, strict=True))
        raise InputError(f"modules that do not fit each other: {what} differ: {given}")
