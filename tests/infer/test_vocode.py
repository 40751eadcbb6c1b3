import jax
import numpy as np
import pytest

from cosyjax.infer.vocode import mel_to_wav
from cosyjax.models.hift import HiFT, HiFTConfig, init_params
from tests.drawn import normal

SMALL = HiFTConfig(
    base_channels=8,
    upsample_rates=(3,),
    upsample_widths=(7,),
    f0_channels=4,
    f0_layers=1,
    block_widths=(3,),
    block_dilations=((1,),),
    source_block_widths=(3,),
    source_block_dilations=((1,),),
)
SAMPLES = 12


@pytest.fixture(scope="module")
def speak():
    params = jax.jit(lambda: init_params(SMALL, jax.random.key(0)))()
    return lambda mel, frames, key: mel_to_wav(
        HiFT(SMALL), params, mel, np.asarray(frames, np.int32), key
    )


def test_a_bucket_speaks_what_the_mel_alone_does(speak):
    mel = normal(1, 6, 80)
    mel[:, 4:] = np.nan
    got = np.asarray(speak(mel, [4], jax.random.key(2)))
    assert got.shape == (1, 6 * SAMPLES) and np.all(np.asarray(got[:, 4 * SAMPLES :]) == 0)
    alone = speak(mel[:, :4], [4], jax.random.key(2))
    np.testing.assert_allclose(got[:, : 4 * SAMPLES], alone, atol=1e-5)


def test_the_key_decides_the_noise(speak):
    mel = normal(1, 4, 80)
    first = speak(mel, [4], jax.random.key(2))
    np.testing.assert_array_equal(first, speak(mel, [4], jax.random.key(2)))
    assert np.any(np.asarray(first != speak(mel, [4], jax.random.key(3))))
