"""Speech tokenizer: sizes, padding, gradients through the rounding, the text decoder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.config import from_dict, to_dict
from cosyjax.errors import InputError
from cosyjax.losses.tokenizer import asr_loss
from cosyjax.models.asr_head import ASRHead, ASRHeadConfig
from cosyjax.models.speech_tokenizer import (
    SpeechTokenizer,
    SpeechTokenizerConfig,
    init_params,
    num_tokens,
)
from tests import contracts
from tests.drawn import normal

SMALL = SpeechTokenizerConfig(
    num_mels=4, embed_dim=16, num_heads=2, num_layers=1, mlp_dim=24, fsmn_width=3
)
HEAD = ASRHeadConfig(
    embed_dim=8,
    num_heads=2,
    mlp_dim=8,
    num_encoder_layers=0,  # the blocks are those of the first encoder
    num_decoder_layers=1,
    vocab_size=11,
    start_token=9,
    end_token=10,
    fsmn_width=3,
)
TRAINED = dataclasses.replace(SMALL, asr=HEAD)


def drawn(config):
    """Parameters from numpy: compiling an initializer per shape takes longer than the tests."""
    shapes = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    rng = np.random.default_rng(0)
    draw = lambda leaf: np.float32(rng.normal(size=leaf.shape, scale=0.3))
    return {"params": jax.tree.map(draw, shapes)}


@pytest.fixture(scope="module")
def variables():
    return drawn(SMALL)


@pytest.fixture(scope="module")
def trained():
    return drawn(TRAINED)


def mel_batch(rows=2, frames=21):
    return normal(rows, frames, 4)


def test_the_released_size_has_its_number_of_parameters():
    shapes = jax.eval_shape(
        lambda key: init_params(SpeechTokenizerConfig(), key), jax.random.key(0)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 123_714_568


@pytest.mark.slow
def test_drawn_parameters_are_finite_and_unboxed():
    params = init_params(dataclasses.replace(SMALL, num_layers=0), jax.random.key(0))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(params))
    assert np.std(params["conv2"]["kernel"]) > 0


def test_the_config_survives_json():
    assert from_dict(SpeechTokenizerConfig, to_dict(TRAINED)) == TRAINED
    assert from_dict(SpeechTokenizerConfig, to_dict(SMALL)) == SMALL


def test_bad_sizes_are_refused():
    with pytest.raises(InputError, match="odd"):
        SpeechTokenizerConfig(num_levels=4)
    with pytest.raises(InputError, match="num_heads"):
        SpeechTokenizerConfig(embed_dim=100, num_heads=3)
    with pytest.raises(InputError, match="vocab_size"):
        ASRHeadConfig(vocab_size=10)


def test_a_mel_of_another_height_is_refused(variables):
    with pytest.raises(InputError, match="mel has shape"):
        SpeechTokenizer(SMALL).apply(variables, np.zeros((1, 8, 80)), np.array([8]))


@pytest.mark.parametrize("frames, tokens", [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (1000, 250)])
def test_four_frames_make_a_token(frames, tokens):
    assert num_tokens(frames) == tokens
    assert int(num_tokens(jnp.asarray(frames))) == tokens


def test_padding_is_inert(variables):
    model = SpeechTokenizer(SMALL)
    encode = jax.jit(lambda mel, lengths: model.apply(variables, mel, lengths, method="encode"))
    contracts.assert_padding_inert(encode, mel_batch(), [21, 12], ratio=0.25)


def test_training_and_inference_see_the_same_tokens(variables):
    model, mel, lengths = SpeechTokenizer(SMALL), mel_batch(), np.array([21, 9])
    output = jax.jit(model.apply)(variables, mel, lengths)
    tokens, counts = jax.jit(lambda *a: model.apply(*a, method="tokens"))(variables, mel, lengths)
    np.testing.assert_array_equal(output.tokens, tokens)
    np.testing.assert_array_equal(output.num_tokens, counts)
    assert output.asr is None and output.codes.shape == (2, 6, 8)


def test_text_without_a_decoder_is_refused(variables):
    text = jnp.zeros((2, 3), jnp.int32)
    with pytest.raises(InputError, match="config.asr"):
        jax.eval_shape(
            SpeechTokenizer(SMALL).apply, variables, mel_batch(), jnp.asarray([21, 9]), text
        )


def asr_loss_of(variables, mel, lengths, text, text_lengths):
    output = SpeechTokenizer(TRAINED).apply(variables, mel, lengths, text)
    return asr_loss(output.asr.text, text, text_lengths, HEAD.end_token)[0]


loss_and_gradient = jax.jit(jax.value_and_grad(asr_loss_of))
LENGTHS, TEXT_LENGTHS = np.array([21, 9]), np.array([3, 1])
TEXT = np.array([[1, 2, 3], [4, 0, 0]])


def test_the_text_teaches_the_encoder_through_the_rounding(trained):
    _, gradient = loss_and_gradient(trained, mel_batch(), LENGTHS, TEXT, TEXT_LENGTHS)
    gradient = jax.device_get(gradient["params"])
    for name in ("conv1", "layers_0", "proj_down", "asr"):
        for leaf in jax.tree.leaves(gradient[name]):
            assert np.any(leaf != 0) and np.all(np.isfinite(leaf)), name


def test_padding_of_speech_and_text_leaves_loss_and_gradient_alone(trained):
    mel = mel_batch()
    valid = np.arange(21)[:, None] < LENGTHS[:, None, None]
    poison = np.where(valid, mel, np.float32(np.nan))
    other = np.array([[1, 2, 3], [4, -1, 10**6]])
    wanted = loss_and_gradient(trained, mel, LENGTHS, TEXT, TEXT_LENGTHS)
    got = loss_and_gradient(trained, poison, LENGTHS, other, TEXT_LENGTHS)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_the_decoder_does_not_read_ahead(trained):
    @jax.jit
    def logits(text):
        variables = {"params": trained["params"]["asr"]}
        return ASRHead(HEAD).apply(variables, normal(1, 4, 8), np.ones((1, 4), bool), text).text

    a, b = (np.asarray(logits(np.array([[1, 2, x, 4]]))) for x in (3, 5))
    np.testing.assert_array_equal(a[:, :3], b[:, :3])
    assert np.all(np.any(a[:, 3:] != b[:, 3:], axis=-1))
