"""The golden files of the language model and of its sampler."""

import pytest

from cosyjax.convert.parity import fixture, lm, runner


@pytest.mark.parametrize("name", ["lm", "ras_sampling"])
def test_every_tensor_of_the_golden_file_agrees(golden, name):
    file = fixture.load_fixture(golden / f"{name}.json", runner.manifest_keys)
    rows = list(runner._rows(file, lm.FIXTURES[name]))
    assert {row.tensor for row in rows} == set(file.outputs)
    assert [row for row in rows if row.verdict != "ok"] == []
