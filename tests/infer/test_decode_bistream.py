"""Text-streaming decoding: how text, prompt and forced fills follow each other."""

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.infer import decode_bistream
from cosyjax.infer.decode import SamplingConfig
from cosyjax.infer.decode_bistream import BistreamOptions, generate_bistream
from cosyjax.models import text_speech_lm
from cosyjax.models.text_speech_lm import TextSpeechLM, TextSpeechLMConfig
from cosyjax.ops.interleave import SOS, SPECIAL, SPEECH, TASK, TEXT

TINY = TextSpeechLMConfig(1, 8, 2, 1, 4, 12, text_vocab_size=30, codebook_size=27, mix_ratio=(2, 3))
MODEL = TextSpeechLM(TINY)
PARAMS = jax.jit(lambda: text_speech_lm.init_params(TINY, jax.random.key(0)))()
TEXTS = [[1, 2], [3], [4, 5, 6]]


def _counting(total):
    """A sampler that draws 0, 1, 2, ... and, from `total` on, eos as soon as it may."""
    drawn = []

    def sampler(logps, recent, keys):
        ended = len(drawn) >= total and np.isfinite(float(logps[0, TINY.eos]))
        token = TINY.eos if ended else len(drawn) % 27
        drawn.append(token)
        return jnp.asarray([token])

    return sampler


def _run(monkeypatch, total, texts=TEXTS, options=BistreamOptions(), **prompt):
    """The tokens, and all that was fed."""
    fed = []
    feed = decode_bistream._Session._feed

    def spy(self, pending, streaming):
        fed.extend(pending)
        return feed(self, pending, streaming)

    monkeypatch.setattr(decode_bistream._Session, "_feed", spy)
    arguments = {"key": jax.random.key(0), "options": options, "sampler": _counting(total)}
    tokens = list(generate_bistream(MODEL, PARAMS, texts, **arguments, **prompt))
    return tokens, fed


def test_three_tokens_are_spoken_per_two_of_text_and_the_rest_at_the_end(monkeypatch):
    tokens, fed = _run(monkeypatch, 8)
    assert tokens == list(range(8))
    speech = lambda *ids: [(SPEECH, i) for i in ids]
    text = lambda *ids: [(TEXT, i) for i in ids]
    wanted = [(SPECIAL, SOS)] + text(1, 2) + speech(0, 1, 2)
    # [3] is too little; [4, 5, 6] allows one block; the last token is fed again at the end.
    wanted += text(3, 4) + speech(3, 4, 5) + speech(5) + text(5, 6)
    assert fed == wanted + [(SPECIAL, TASK)] + speech(6, 7)


def test_the_last_token_is_fed_once_if_asked(monkeypatch):
    _, fed = _run(monkeypatch, 8, options=BistreamOptions(duplicate_last_token=False))
    assert fed.count((SPEECH, 5)) == 1


def test_prompt_speech_is_paired_with_text_before_anything_is_spoken(monkeypatch):
    _, fed = _run(monkeypatch, 3, prompt_text=[7], prompt_speech=[20, 21, 22, 23])
    wanted = [(TEXT, 7), (TEXT, 1), (SPEECH, 20), (SPEECH, 21), (SPEECH, 22)]
    assert fed[1:9] == wanted + [(TEXT, 2), (TEXT, 3), (SPEECH, 23)]
    # Two tokens complete the block that the prompt began, then fill is forced.
    assert fed[9:13] == [(SPEECH, 0), (SPEECH, 1), (TEXT, 4), (TEXT, 5)]


def test_short_text_is_spoken_in_the_final_pass(monkeypatch):
    tokens, fed = _run(monkeypatch, 2, texts=[[9]])
    assert fed[:3] == [(SPECIAL, SOS), (TEXT, 9), (SPECIAL, TASK)] and tokens == [0, 1]


def test_the_limit_and_the_guard_end_a_session(monkeypatch):
    tokens, _ = _run(monkeypatch, 99, options=BistreamOptions(max_tokens=30))
    assert len(tokens) == 30 - 2  # two fills
    sampling = SamplingConfig(method="greedy", runaway_window=5, runaway_distinct=99)
    options = BistreamOptions(sampling)
    assert len(_run(monkeypatch, 99, options=options)[0]) == 4


def test_the_cache_grows_when_it_is_full(monkeypatch):
    options = BistreamOptions(SamplingConfig(runaway_window=0))
    monkeypatch.setattr(decode_bistream, "FIRST_CAPACITY", 8)
    grown, _ = _run(monkeypatch, 20, options=options)
    assert grown == list(range(20))
