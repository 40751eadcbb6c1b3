"""The decode loop: cached equals uncached, chunks equal the whole, rows do not talk, limits."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.infer import decode
from cosyjax.infer.decode import (
    SamplingConfig,
    decode_chunk,
    generate,
    prefill_params,
    prepare_for_decode,
    start,
)
from cosyjax.layers import stacking
from cosyjax.models import text_speech_lm
from cosyjax.models.text_speech_lm import TextSpeechLM, TextSpeechLMConfig

TINY = TextSpeechLMConfig(
    1, 12, 4, 2, 4, 20, rope_theta=100.0, text_vocab_size=30, codebook_size=27
)
LENGTH = 12
GREEDY = SamplingConfig(method="greedy")
ROWS = {
    "text_tokens": np.array([[3, 9, 4, 22], [8, 1, 0, 0]], np.int32),
    "num_text": np.array([4, 2], np.int32),
    "prompt_speech": np.array([[5, 7, 11], [2, 0, 0]], np.int32),
    "num_prompt_speech": np.array([3, 1], np.int32),
    "min_tokens": np.array([4, 0], np.int32),
    "max_tokens": np.array([LENGTH, 9], np.int32),
}


def _params(seed=0):
    init = jax.jit(lambda: text_speech_lm.init_params(TINY, jax.random.key(seed)))
    params = jax.tree.map(np.array, init())
    # Wide embeddings make the next token depend on the history; a bias keeps ends away.
    params["speech_embedding"]["embedding"] *= 50.0
    params["text_embedding"]["embedding"] *= 50.0
    params["head"]["kernel"] *= 3.0
    return params


PARAMS = _params()
MODEL = TextSpeechLM(TINY)


def test_a_prompt_is_read_by_a_kernel_as_without_one() -> None:
    prompt = tuple(ROWS[name] for name in list(ROWS)[:4])
    given = (prompt, (ROWS["min_tokens"], ROWS["max_tokens"]), jax.random.key(0))
    by_kernel = TextSpeechLM(dataclasses.replace(TINY, attention="splash_interpret"))
    states = [
        decode_chunk(model, PARAMS, start(model, PARAMS, *given, max_length=LENGTH), LENGTH)
        for model in (MODEL, by_kernel)
    ]
    assert states[0].num_tokens.max() == LENGTH
    for a, b in zip(jax.tree.leaves(states[0]), jax.tree.leaves(states[1]), strict=True):
        if jnp.issubdtype(a.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, atol=1e-4)
        elif not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(a, b)


def _with_bias(moved, params=PARAMS):
    """Parameters whose bias of the given ids is moved."""
    bias = params["head"]["bias"].copy()
    for ids, value in moved.items():
        bias[list(ids)] += value
    return params | {"head": params["head"] | {"bias": bias}}


NEVER_ENDS = _with_bias({(27, 28, 29): -1e4})


def _generate(params=NEVER_ENDS, rows=ROWS, key=jax.random.key(3), model=MODEL, **options):
    options = {"sampling": SamplingConfig(), "max_length": LENGTH} | options
    return jax.device_get(generate(model, params, **rows, key=key, **options))


def _row(index):
    return {name: value[index : index + 1] for name, value in ROWS.items()}


def test_cached_greedy_decoding_equals_argmax_of_the_whole_sequence():
    @jax.jit
    def whole(speech, num_speech):
        text = ROWS["text_tokens"], ROWS["num_text"]
        layout = text_speech_lm.lay_out(TINY, *text, speech, num_speech)
        return MODEL.apply({"params": NEVER_ENDS}, layout), layout.lengths

    found = _generate(sampling=GREEDY)
    np.testing.assert_array_equal(found.num_tokens, ROWS["max_tokens"])
    before = ROWS["num_prompt_speech"]
    speech = np.zeros((2, 3 + LENGTH), np.int32)
    for row, num in enumerate(found.num_tokens):
        prompt = ROWS["prompt_speech"][row, : before[row]]
        speech[row, : before[row] + num] = [*prompt, *found.tokens[row, :num]]
    logits, lengths = jax.device_get(whole(speech, before + found.num_tokens))
    for row, num in enumerate(found.num_tokens):
        wanted = np.argmax(logits[row, lengths[row] - num - 1 : lengths[row] - 1], axis=-1)
        np.testing.assert_array_equal(found.tokens[row, :num], wanted)
        assert len(set(wanted.tolist())) > 3, "too dull to prove anything"
        assert np.all(found.tokens[row, num:] == -1)


@pytest.mark.parametrize("steps", [(1, 3, 2, 9)])
def test_chunks_give_the_tokens_of_one_call(steps):
    keys = jax.random.split(jax.random.key(3), 2)
    whole = _generate(key=keys)
    prompt = tuple(ROWS[name] for name in list(ROWS)[:4])
    limits = ROWS["min_tokens"], ROWS["max_tokens"]
    state = start(MODEL, NEVER_ENDS, prompt, limits, keys, max_length=LENGTH)
    for num in steps:
        state = decode_chunk(MODEL, NEVER_ENDS, state, num)
    np.testing.assert_array_equal(state.tokens, whole.tokens)


def test_a_row_decodes_the_same_alone_and_in_a_batch():
    keys = jax.random.split(jax.random.key(3), 2)
    together = _generate(key=keys)
    assert not np.array_equal(together.tokens[0, :9], together.tokens[1, :9])
    for row in range(2):
        alone = _generate(rows=_row(row), key=keys[row : row + 1])
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
        assert int(alone.num_tokens[0]) == int(together.num_tokens[row])


def test_the_key_decides_the_tokens():
    first, again = _generate(), _generate()
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert not np.array_equal(first.tokens, _generate(key=jax.random.key(4)).tokens)


def test_fused_parameters_decode_the_same():
    stacked = stacking.stack_layers(NEVER_ENDS)
    config = dataclasses.replace(TINY, scan_layers=True, compute="float32")
    params, fused = prepare_for_decode(stacked, config)
    assert fused.fused and "qkv" in params["backbone"]["layers_0"]["attention"]
    got = _generate(params, model=TextSpeechLM(fused), sampling=GREEDY)
    np.testing.assert_array_equal(got.tokens, _generate(sampling=GREEDY).tokens)


def test_a_prompt_read_with_rounded_kernels_is_read_as_with_kernels_rounded_in_the_call():
    config = dataclasses.replace(TINY, compute="bfloat16")
    rounded = prefill_params(PARAMS, config)
    assert rounded["head"]["kernel"].dtype == jnp.bfloat16
    prompt = tuple(_row(0)[name] for name in list(ROWS)[:4])
    limits = np.array([1]), np.array([9])
    states = [
        start(TextSpeechLM(config), p, prompt, limits, jax.random.key(0), max_length=9)
        for p in (PARAMS, rounded)
    ]
    np.testing.assert_array_equal(states[0].lm[0].k, states[1].lm[0].k)
    assert prefill_params(PARAMS, TINY) is None


def test_eos_waits_for_the_least_number_of_tokens():
    found = _generate(_with_bias({(27,): 1e4, (28, 29): -1e4}))
    np.testing.assert_array_equal(found.num_tokens, ROWS["min_tokens"])
    assert np.all(found.finished) and not np.any(found.runaway)


def test_the_other_end_ids_end_at_once_unless_forbidden():
    params = _with_bias({(29,): 1e4})
    np.testing.assert_array_equal(_generate(params).num_tokens, [0, 0])
    forbidden = _generate(params, sampling=SamplingConfig(forbid_all_ends=True))
    np.testing.assert_array_equal(forbidden.num_tokens, ROWS["min_tokens"])


def test_a_sequence_that_repeats_itself_is_given_up():
    stuck = _with_bias({(0, 1): 1e4}, NEVER_ENDS)
    guard = SamplingConfig(method="random", runaway_window=6, runaway_distinct=3)
    found = _generate(stuck, sampling=guard)
    np.testing.assert_array_equal(found.num_tokens, [6, 6])
    assert np.all(found.runaway) and not np.any(found.finished)
    assert not np.any(_generate(sampling=dataclasses.replace(guard, method="greedy")).finished)


def test_nothing_is_drawn_where_nothing_may_be():
    rows = ROWS | {"max_tokens": np.array([0, 1])}
    np.testing.assert_array_equal(_generate(rows=rows).num_tokens, [0, 1])


def test_bad_settings_are_named():
    with pytest.raises(InputError, match="allowed: ras"):
        SamplingConfig(method="beam")
    with pytest.raises(InputError, match="temperature=0"):
        SamplingConfig(temperature=0.0)
    with pytest.raises(InputError, match="3 keys for 2 rows"):
        decode.row_keys(jax.random.split(jax.random.key(0), 3), 2)


def test_the_cache_is_updated_in_place():
    prompt = tuple(_row(0)[name] for name in list(ROWS)[:4])
    limits = np.array([1]), np.array([9])
    begin = lambda: start(MODEL, PARAMS, prompt, limits, jax.random.key(0), max_length=9)
    state = jax.eval_shape(begin)
    text = decode_chunk.lower(MODEL, PARAMS, state, 5).compile().as_text()
    for cache in (state.lm[0].k, state.lm[0].v):
        shape = ",".join(map(str, cache.shape))
        assert f"f32[{shape}]" in text
        assert not re.search(rf"= f32\[{shape}\]\S* (copy|transpose)\(", text)
