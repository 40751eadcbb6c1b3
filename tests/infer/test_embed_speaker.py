"""Speaker embeddings from waveforms."""

import jax
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.infer import embed_speaker
from cosyjax.models import speaker_encoder
from tests.drawn import normal

TINY = speaker_encoder.SpeakerEncoderConfig(
    num_mels=8,
    embed_dim=6,
    head_dim=4,
    init_dim=8,
    growth=4,
    bottleneck=6,
    num_layers=(1,),
    dilations=(1,),
)


@pytest.fixture(scope="module")
def embed():
    model = speaker_encoder.SpeakerEncoder(TINY)
    params = jax.jit(lambda: speaker_encoder.init_params(TINY, jax.random.key(0)))()
    return lambda wav, counts: embed_speaker.embed_speaker(model, params, wav, counts)


def test_padding_of_a_recording_changes_nothing(embed):
    wav = np.float32(0.1) * normal(2, 8_000)
    counts = np.array([8_000, 4_250])
    valid = np.arange(8_000) < counts[:, None]
    padded = embed(np.where(valid, wav, np.float32(np.nan)), counts)
    alone = embed(wav[1:, :4_250], counts[1:])
    np.testing.assert_allclose(np.asarray(padded)[1], np.asarray(alone)[0], atol=2e-5)


def test_one_length_is_compiled_once(embed):
    before = embed_speaker._embed._cache_size()
    for counts in ([6_000], [5_000]):
        embed(np.zeros((1, 6_000), np.float32), np.array(counts))
    assert embed_speaker._embed._cache_size() == before + 1


def test_a_recording_shorter_than_a_frame_is_refused(embed):
    with pytest.raises(InputError, match="at least 400"):
        embed(np.zeros((1, 399), np.float32), np.array([399]))
