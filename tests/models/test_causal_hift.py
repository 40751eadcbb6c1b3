"""The causal vocoder: streaming is exactly the whole, and the future ends after the look-ahead."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import config as configs
from cosyjax.errors import InputError
from cosyjax.infer.overlap import OverlapState
from cosyjax.infer.vocode import init_stream, mel_to_wav, speak_chunk
from cosyjax.models import vocoder
from cosyjax.models.hift import HiFT, HiFTConfig
from tests.contracts import assert_causal, assert_padding_inert

AHEAD, FRAMES, SAMPLES = 2, 12, 8
TINY = HiFTConfig(
    num_mels=3,
    base_channels=4,
    upsample_rates=(4,),
    upsample_widths=(6,),
    block_widths=(3,),
    block_dilations=((2,),),
    source_block_widths=(3,),
    source_block_dilations=((1,),),
    n_fft=8,
    hop=2,
    f0_channels=4,
    f0_layers=2,
    num_harmonics=1,
    causal=True,
    lookahead=AHEAD,
)
# With tiles, more than one stage, and the rates of speech.
SMALL = dataclasses.replace(
    TINY,
    num_mels=80,
    base_channels=64,
    upsample_rates=(8, 5),
    upsample_widths=(16, 11),
    block_widths=(3, 7),
    block_dilations=((1, 3),) * 2,
    source_block_widths=(3, 5),
    source_block_dilations=((1,),) * 2,
    n_fft=48,
    hop=12,
    f0_channels=32,
    f0_layers=3,
    num_harmonics=8,
    lookahead=4,
)
KEY = jax.random.key(2)


def drawn(config: HiFTConfig) -> Any:
    """Parameters that are all alive, of the size that training gives; some frames are unvoiced.

    Larger ones make phases of hundreds of turns, in which rounding is heard.
    """
    tree = jax.eval_shape(lambda: vocoder.init_params(config, jax.random.key(0)))
    stream = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        normal = stream.standard_normal(leaf.shape)
        if path[-1].key == "scale":
            return np.full(leaf.shape, 0.7, np.float32)
        if path[-1].key.endswith("alpha"):
            return np.float32(1.0 + 0.2 * normal)
        return np.float32(normal * (math.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.1))

    params = jax.tree_util.tree_map_with_path(draw, tree)
    pitch, last = params["f0_predictor"]["output"], params["filter"]["last"]
    pitch["kernel"] = np.float32(1000.0) * pitch["kernel"]  # Hz
    last["bias"] = last["bias"] - np.float32(1.0)  # quiet: a clipped wav would hide differences
    return params


@pytest.fixture(scope="module")
def params() -> Any:
    return drawn(TINY)


@pytest.fixture(scope="module")
def ready(params: Any) -> tuple[Any, Any]:
    """(model, parameters) as inference has them."""
    return folded(params, TINY)


def folded(params: Any, config: HiFTConfig) -> tuple[Any, Any]:
    """As `fold_weight_norm`, as one program."""
    found = []

    def fold(params: Any) -> Any:
        tree, made = vocoder.fold_weight_norm(params, config)
        found.append(made)
        return tree

    tree = jax.jit(fold)(params)
    return vocoder.make_vocoder(found[0]), tree


@pytest.fixture(scope="module")
def mel() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (2, FRAMES, TINY.num_mels))


@pytest.fixture(scope="module")
def whole(ready: Any, mel: jax.Array) -> np.ndarray:
    return np.asarray(speak(ready, mel))


def speak(ready: Any, mel: jax.Array, lengths: Any = None) -> jax.Array:
    model, params = ready
    lengths = jnp.full(mel.shape[:1], mel.shape[1]) if lengths is None else jnp.asarray(lengths)
    return mel_to_wav(model, params, mel, lengths, KEY)


def stream(ready: Any, mel: jax.Array, sizes: list[int]) -> np.ndarray:
    """Speaks in chunks; drops the silence before the start."""
    model, params = ready
    state, spoken, start = init_stream(model, mel.shape[0]), [], 0
    for index, size in enumerate(sizes):
        last = index + 1 == len(sizes)
        piece = mel[:, start : start + size]
        wav, state = speak_chunk(model, params, piece, state, key=KEY, last=last)
        spoken.append(np.asarray(wav))
        start += size
    ahead = model.config.lookahead * model.config.samples_per_frame
    joined = np.concatenate(spoken, axis=1)
    assert np.all(joined[:, :ahead] == 0)
    return joined[:, ahead:]


def decibels(got: np.ndarray, wanted: np.ndarray) -> float:
    """Signal to noise."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    return 10 * np.log10(np.sum(wanted**2) / max(np.sum((got - wanted) ** 2), 1e-30))


def test_the_wav_is_alive_and_not_clipped(whole: np.ndarray) -> None:
    assert whole.shape == (2, FRAMES * SAMPLES)
    assert np.std(whole) > 1e-3 and np.mean(np.abs(whole) > 0.98) < 0.05


def test_chunks_say_what_the_whole_says(ready: Any, mel: jax.Array, whole: np.ndarray) -> None:
    assert decibels(stream(ready, mel, [4, 4, 4]), whole) > 100


def test_rows_that_wait_and_end_on_their_own_say_what_each_says_alone(
    ready: Any, mel: jax.Array, whole: np.ndarray
) -> None:
    model, params = ready
    ended = np.pad(mel, ((0, 0), (0, AHEAD), (0, 0)))  # a row ends with frames of zeros
    heard, state = np.zeros(2, int), init_stream(model, 2)
    spoken: list[list[np.ndarray]] = [[], []]
    for counts in ([5, 0], [0, 1], [1, 5], [5, 2], [3, 5], [0, 1]):
        chunk = np.stack([np.roll(row, -start, axis=0)[:5] for row, start in zip(ended, heard)])
        for row, n in zip(chunk, counts):
            row[n:] = np.nan
        wav, state = speak_chunk(
            model, params, chunk, state, key=KEY, num_frames=np.asarray(counts, np.int32)
        )
        for row, n in enumerate(counts):
            spoken[row].append(np.asarray(wav)[row, : n * SAMPLES])
            assert np.all(np.asarray(wav)[row, n * SAMPLES :] == 0)
        heard += counts
    np.testing.assert_array_equal(heard, FRAMES + AHEAD)
    got = np.stack([np.concatenate(row)[AHEAD * SAMPLES :] for row in spoken])
    assert decibels(got, whole) > 100


def test_frames_beyond_the_lookahead_change_nothing(
    ready: Any, mel: jax.Array, whole: np.ndarray
) -> None:
    changed = np.asarray(speak(ready, mel.at[:, 7:].add(1.0)))
    edge = (7 - AHEAD) * SAMPLES
    np.testing.assert_array_equal(changed[:, :edge], whole[:, :edge])
    assert np.all(np.any(changed[:, edge : edge + SAMPLES] != whole[:, edge : edge + SAMPLES], 1))


def test_f0_stays_in_float32(ready: Any, mel: jax.Array) -> None:
    model, params = ready
    rounding = dataclasses.replace(model.config, kernels="plain", compute="bfloat16")
    hear = lambda model: functools.partial(model.apply, {"params": params}, method="f0")
    exact, rounded = hear(model), hear(vocoder.make_vocoder(rounding))
    np.testing.assert_array_equal(*jax.jit(lambda mel: (exact(mel), rounded(mel)))(mel))
    with pytest.raises(InputError, match="float32"):
        exact(mel.astype(jnp.bfloat16))


def test_parameters_name_their_axes() -> None:
    init = vocoder.make_vocoder(TINY).init
    boxed = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 2, TINY.num_mels)))
    is_box = lambda leaf: isinstance(leaf, nn.meta.AxisMetadata)
    leaves = jax.tree.leaves(boxed, is_leaf=is_box)
    assert leaves and all(is_box(leaf) and len(leaf.names) == leaf.value.ndim for leaf in leaves)


def test_a_config_without_the_new_fields_is_the_official_vocoder() -> None:
    old = {
        k: v for k, v in configs.to_dict(HiFTConfig()).items() if k not in ("causal", "lookahead")
    }
    config = configs.from_dict(HiFTConfig, old)
    assert isinstance(vocoder.make_vocoder(config), HiFT)
    assert configs.from_dict(HiFTConfig, configs.to_dict(TINY)) == TINY


def test_the_official_vocoder_streams_by_overlap() -> None:
    state = init_stream(HiFT(HiFTConfig()), 1)
    assert isinstance(state, OverlapState) and state.mel.shape == (1, 15 + 20, 80)


@pytest.mark.parametrize("wrong, word", [({"lookahead": -1}, "lookahead"), ({"n_fft": 2}, "twice")])
def test_sizes_that_do_not_fit_are_named(wrong: dict, word: str) -> None:
    with pytest.raises(InputError, match=word):
        dataclasses.replace(TINY, **wrong)


@pytest.mark.slow
def test_padding_changes_no_sample(ready: Any, mel: jax.Array) -> None:
    run = functools.partial(speak, ready)
    assert_padding_inert(lambda mel, n: run(mel, n), mel, [7, FRAMES], ratio=SAMPLES)


@pytest.mark.slow
def test_folding_keeps_the_wav(params: Any, mel: jax.Array, whole: np.ndarray) -> None:
    got = speak((vocoder.make_vocoder(TINY), params), mel)
    assert decibels(got, whole) > 80  # kernels rounded another way move F0


@pytest.mark.slow
def test_no_gradient_comes_from_beyond_the_lookahead(params: Any, mel: jax.Array) -> None:
    model = vocoder.make_vocoder(TINY)
    by_frame = lambda wav: wav.reshape(1, -1, SAMPLES)  # the first sample's window is zero
    assert_causal(
        jax.jit(lambda x: by_frame(model.apply({"params": params}, x))),
        mel[:1, :5],
        last_seen=lambda t: t + AHEAD,
    )


@pytest.mark.slow
@pytest.mark.parametrize("cut", [[1] * 3 + [57], [5] * 12, [15] * 4, [25, 25, 10], [50, 10]])
def test_every_size_of_chunk_says_what_the_whole_says(small: Any, cut: list[int]) -> None:
    ready, mel, wanted = small
    assert decibels(stream(ready, mel, cut), wanted) > 100


@pytest.fixture(scope="module")
def small() -> Any:
    """A model with tiles and stages, 1.2 s of mel, and what is spoken at once."""
    ready = folded(drawn(SMALL), SMALL)
    mel = jax.random.normal(jax.random.key(1), (1, 60, SMALL.num_mels))
    return ready, mel, np.asarray(speak(ready, mel))
