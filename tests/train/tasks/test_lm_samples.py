"""What is heard of a language model in training."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.infer.bundle import load_bundle
from cosyjax.train.tasks import lm_samples
from cosyjax.train.tasks.lm import GROUP, LMTask
from tests.train.tasks.tiny_lm import TINY, pack, sequence

KEY = jax.random.key(0)
PARTS = [sequence(1, 4, 9), sequence(2, 3, 8, True), sequence(3, 2, 5)]
ROWS = pack([PARTS[:2], [], PARTS[2:]], 33)


def test_the_first_text_of_each_row_is_read_whatever_its_layout():
    uni, both = (np.asarray(p["ids"])[np.asarray(p["kinds"]) == 1] for p in (PARTS[0], PARTS[2]))
    texts = lm_samples.first_texts(ROWS, 5)  # the row without a sequence has none
    assert [list(text) for text in texts] == [list(uni), list(both)]
    mixed = lm_samples.first_texts(pack([[PARTS[1]]], 33), 1)
    assert mixed[0].size == 3
    assert len(lm_samples.first_texts(ROWS, 1)) == 1


def test_without_a_bundle_there_is_nothing_to_hear():
    assert LMTask(TINY).samples({}, ROWS, KEY) == []
    with pytest.raises(InputError, match="num_samples=-1"):
        LMTask(TINY, num_samples=-1)


def test_a_voice_that_the_bundle_lacks_is_refused(tiny_bundle: Path):
    opened = load_bundle(tiny_bundle, modules=())
    known = sorted(opened.voices)
    with pytest.raises(InputError, match="no voice 'nobody-here'"):
        lm_samples.find_voice(opened, str(tiny_bundle), "nobody-here")
    assert lm_samples.find_voice(opened, str(tiny_bundle), "").name == (known or ["nobody"])[0]


def test_a_bundle_of_fewer_speech_tokens_is_refused(tiny_bundle: Path):
    size = load_bundle(tiny_bundle, modules=()).config.flow.vocab_size
    other = dataclasses.replace(TINY, codebook_size=size + 1)
    with pytest.raises(InputError, match="speech tokens"):
        lm_samples.speak_texts(other, {}, [], bundle=str(tiny_bundle), voice="", key=KEY)


@pytest.mark.slow
def test_the_flow_and_vocoder_of_a_bundle_speak_the_first_texts(tiny_bundle: Path):
    bundle = load_bundle(tiny_bundle, modules=())
    task = LMTask(dataclasses.replace(bundle.config.lm, scan_layers=True), speech=str(tiny_bundle))
    made = task.samples(task.load(str(tiny_bundle)), ROWS, KEY)
    assert GROUP in task.load(str(tiny_bundle)) and 1 <= len(made) <= 2
    for sample in made:
        assert sample.wav.size and sample.wav.size % 960 == 0 and np.std(sample.wav) > 0
        assert sample.sample_rate_hz == 24_000 and np.all(np.isfinite(sample.wav))
