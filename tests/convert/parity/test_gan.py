"""Golden scores, feature maps and losses; reading of the tensors' names."""

import numpy as np
import pytest

from cosyjax.convert.parity import fixture, gan, runner


@pytest.mark.parametrize("name", ["disc_period", "disc_spec", "gan_losses"])
def test_golden_values_hold(golden, name):
    loaded = fixture.load_fixture(golden / f"{name}.json", runner.manifest_keys)
    rows = [runner.compare(name, check) for check in gan.FIXTURES[name](loaded)]
    assert {row.tensor for row in rows} == set(loaded.outputs)
    assert [row for row in rows if row.verdict != "ok"] == []


@pytest.mark.parametrize(
    "rest, shape, wanted",
    [
        ("", (2, 4, 3, 5), lambda x: x),
        ("_slice", (2, 3, 5), lambda x: x[0, :2]),
        ("_slice", (1, 2, 3, 4), lambda x: x[:1, :2, :, :4]),
        ("_slice", (3, 5), lambda x: x[0, 0]),
        ("_b1_slice", (4, 2, 2), lambda x: x[1, :, :2, :2]),
        ("_meanabs_b1_per_channel", (4,), lambda x: np.abs(x[1]).mean((1, 2))),
        ("_meanabs_per_channel", (4,), lambda x: np.abs(x).mean((0, 2, 3))),
    ],
)
def test_the_name_and_the_shape_say_which_part_of_a_feature_map_is_meant(rest, shape, wanted):
    features = np.random.default_rng(0).normal(size=(2, 4, 3, 5))
    np.testing.assert_allclose(gan.feature_view(features, rest, shape), wanted(features))
