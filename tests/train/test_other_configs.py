"""Sizes of the tokenizer, the vocoder and the speaker encoder in configs/."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from typing import Any

import jax
import pytest

from cosyjax import config as configs
from cosyjax.cli.train import read_config_file
from cosyjax.models.hift import HiFTConfig
from cosyjax.models.speaker_encoder import SpeakerEncoderConfig
from cosyjax.models.speech_tokenizer import SpeechTokenizerConfig
from cosyjax.train.config import read_config

FOLDER = Path(__file__).parents[2] / "configs"
EXPORTED = {
    "tokenizer": ("base", "speech_tokenizer", SpeechTokenizerConfig()),
    "vocoder": ("cosyvoice2", "vocoder", HiFTConfig()),
    "speaker": ("cosyvoice2", "speaker_encoder", SpeakerEncoderConfig()),
}


def get_config(name: str, **values: Any) -> Any:
    return runpy.run_path(str(FOLDER / f"{name}.py"))["get_config"](**values)


@pytest.mark.parametrize("name", list(EXPORTED))
def test_the_released_sizes_are_those_of_the_models(name: str) -> None:
    size, module, wanted = EXPORTED[name]
    task = get_config(name, size=size, compute="float32").task
    trees = {"speech_tokenizer": {}, "generator": {}, "speaker_encoder": {"encoder": {}}}
    assert task.modules(trees)[0][module] == wanted


@pytest.mark.parametrize(
    "name, values",
    [
        ("tokenizer", {}),
        ("tokenizer", {"quantizer": "vq"}),
        ("tokenizer", {"quantizer": "none", "size": "base"}),
        ("mini_tokenizer", {"quantizer": "vq", "probe": True}),
        ("vocoder", {}),
        ("vocoder", {"size": "cosyvoice2"}),
        ("vocoder", {"causal": True, "lookahead": 3}),
        ("speaker", {"num_speakers": 7}),
    ],
)
def test_a_config_is_read_back_from_its_json(name: str, values: dict) -> None:
    config = get_config(name, **values)
    assert read_config(json.loads(json.dumps(configs.to_dict(config)))) == config


@pytest.mark.parametrize(
    "words", ["tokenizer.py:quantizer=none", "mini_tokenizer.py:quantizer=none,probe=true"]
)
def test_a_command_line_can_ask_for_no_quantizer(words: str) -> None:
    task = read_config_file(f"{FOLDER}/{words}").task
    assert task.model.quantizer == "none" and (task.probe is not None) == ("probe" in words)


@pytest.mark.parametrize(
    "name, millions", [("tokenizer", (4, 9)), ("vocoder", (0.5, 2)), ("speaker", (0.1, 1))]
)
def test_the_small_sizes_are_small(name: str, millions: tuple[float, float]) -> None:
    shapes = jax.eval_shape(get_config(name).task.init, jax.random.key(0))
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) / 1e6
    assert millions[0] < total < millions[1]
