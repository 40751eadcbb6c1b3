"""Parity of the discriminators' branches and of the adversarial losses."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.convert import mapping, names_discriminator
from cosyjax.convert.parity.fixture import Check, Fixture
from cosyjax.errors import InputError
from cosyjax.losses import gan
from cosyjax.models import discriminators

# "fmap4_slice", "fmap2_b1_slice", "fmap3_meanabs_b0_per_channel", "fmap5"
FEATURE_NAME = re.compile(r"fmap(?P<layer>\d+)(?P<rest>.*)")


def period_branch(fixture: Fixture) -> Iterator[Check]:
    """One branch of the multi-period discriminator."""
    kernels = _directions(fixture.weights, "convs")
    width, out_width = kernels[0].shape[2], _directions(fixture.weights, "conv_post")[0].shape[2]
    config = discriminators.MultiPeriodConfig(
        periods=(int(fixture.config["period"]),),
        channels=tuple(kernel.shape[0] for kernel in kernels),
        width=width,
        stride=int(fixture.config.get("stride", 3)),
        out_width=out_width,
    )
    module = discriminators.PeriodDiscriminator(config, config.periods[0])
    rules = names_discriminator.period_rules(len(kernels), keys=fixture.weights)
    yield from _branch(fixture, module, rules)


def resolution_branch(fixture: Fixture) -> Iterator[Check]:
    """One branch of the multi-resolution discriminator."""
    size = fixture.config
    kernels = _directions(fixture.weights, "discriminators")
    resolution = (int(size["fft_size"]), int(size["hop"]), int(size["win"]))
    config = discriminators.MultiResolutionConfig(
        resolutions=(resolution,),
        channels=kernels[0].shape[0],
        num_strided=len(kernels) - 2,
        kernel=kernels[0].shape[2:],
        out_kernel=kernels[-1].shape[2:],
    )
    module = discriminators.ResolutionDiscriminator(config, resolution)
    rules = names_discriminator.resolution_rules(len(kernels), keys=fixture.weights)
    yield from _branch(fixture, module, rules)


def _directions(weights: Mapping[str, np.ndarray], stem: str) -> list[np.ndarray]:
    """The official kernels [out, in, height, width] under `stem`, in order of depth."""
    ends = (names_discriminator.OLD_STYLE[1], names_discriminator.PARAMETRIZED[1])
    keys = [key for key in weights if key.startswith(stem + ".") and key.endswith(ends)]
    depth = lambda key: [int(part) for part in key.split(".") if part.isdigit()]
    return [weights[key] for key in sorted(keys, key=depth)]


def _branch(fixture: Fixture, module: Any, rules: list[mapping.Rule]) -> Iterator[Check]:
    wav = jnp.asarray(fixture.inputs["wav"]).reshape(len(fixture.inputs["wav"]), -1)
    tree = nn.meta.unbox(jax.eval_shape(module.init, jax.random.key(0), wav))["params"]
    shapes = {path: leaf.shape for path, leaf in mapping.flatten(tree).items()}
    params = mapping.import_tensors(rules, fixture.weights, shapes, fixture.name)
    judgement = jax.jit(module.apply)({"params": params}, wav)
    for name, expected in fixture.outputs.items():
        if name == "score":
            yield Check(name, np.asarray(judgement.score).reshape(expected.shape), expected)
            continue
        parsed = FEATURE_NAME.fullmatch(name)
        if parsed is None:
            raise InputError(f"{fixture.name}: out.{name} is neither a score nor a feature map")
        official = np.asarray(judgement.features[int(parsed["layer"])]).transpose(0, 3, 1, 2)
        yield Check(name, feature_view(official, parsed["rest"], expected.shape), expected)


def feature_view(features: np.ndarray, rest: str, shape: tuple[int, ...]) -> np.ndarray:
    """Takes from a feature map [B, C, rows, columns] what the rest of the tensor's name says.

    `_b<n>` picks a batch row, `_meanabs` the mean magnitude `_per_channel` (or of everything). A
    tensor of a lower rank than the map is of row 0; a smaller one is the leading part.
    """
    row = re.search(r"_b(\d+)", rest)
    if row or (len(shape) < features.ndim and "meanabs" not in rest):
        features = features[int(row[1]) if row else 0]
    if "meanabs" in rest:
        channel = features.ndim - 3
        others = tuple(axis for axis in range(features.ndim) if axis != channel)
        whole = None if "per_channel" not in rest else others
        return np.mean(np.abs(features), axis=whole, dtype=np.float64).reshape(shape)
    while features.ndim > len(shape):
        features = features[0]
    return features[tuple(slice(0, size) for size in shape)]


def losses(fixture: Fixture) -> Iterator[Check]:
    """`gan_losses`: each term on given scores, feature maps and waveforms."""
    limit = float(fixture.config.get("tpr_tau", gan.GanLossConfig.relative_limit))
    real, generated = _numbered(fixture, "dr"), _numbered(fixture, "dg")
    features = [[x] for x in _numbered(fixture, "fr")], [[x] for x in _numbered(fixture, "fg")]
    terms = {
        "generator_loss": lambda: gan.generator_loss(generated),
        "discriminator_loss": lambda: gan.discriminator_loss(real, generated),
        "feature_loss": lambda: gan.feature_loss(*features),
        "tpr_gen": lambda: gan.relativistic_loss(generated, real, limit),
        "tpr_disc": lambda: gan.relativistic_loss(real, generated, limit),
        "mel_loss": lambda: _mel_loss(fixture),
    }
    for name, expected in fixture.outputs.items():
        if name not in terms:
            raise InputError(f"{fixture.name}: out.{name} is not a known term")
        yield Check(name, np.asarray(terms[name]()).reshape(expected.shape), expected)


def _numbered(fixture: Fixture, stem: str) -> list[jax.Array]:
    names = [name for name in fixture.inputs if re.fullmatch(stem + r"\d+", name)]
    names.sort(key=lambda name: int(name.removeprefix(stem)))
    return [jnp.asarray(fixture.inputs[name]) for name in names]


def _mel_loss(fixture: Fixture) -> jax.Array:
    size = {key: int(fixture.config[key]) for key in ("sample_rate",) if key in fixture.config}
    config = dataclasses.replace(
        gan.FULL_BAND_MEL, **{f"{key}_hz": value for key, value in size.items()}
    )
    wavs = (fixture.inputs[name] for name in ("real", "fake"))
    real, fake = (jnp.asarray(wav).reshape(-1, wav.shape[-1]) for wav in wavs)
    return gan.mel_loss(real, fake, (config,))


FIXTURES = {
    "disc_period": period_branch,
    "disc_spec": resolution_branch,
    "gan_losses": losses,
}
