"""Every golden tensor of the flow agrees with the official modules."""

from pathlib import Path

import pytest

from cosyjax.convert.parity import flow, runner
from cosyjax.convert.parity.fixture import load_fixture


@pytest.mark.parametrize("name", ["flow_encoder", "flow_decoder", "flow", "rand_noise_seed0"])
def test_every_golden_tensor_of_the_flow_agrees(golden: Path, name: str) -> None:
    fixture = load_fixture(golden / f"{name}.json", runner.manifest_keys)
    rows = list(runner._rows(fixture, flow.FIXTURES[name]))
    assert rows and [row for row in rows if row.verdict != "ok"] == []
