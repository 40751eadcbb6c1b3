"""The tokenizer's golden files: every tensor within its bound, every token exact."""

import pytest

from cosyjax.convert.parity import tokenizer
from cosyjax.convert.parity.fixture import load_fixture
from cosyjax.convert.parity.runner import compare, manifest_keys


@pytest.mark.parametrize("name", ["fsq", "s3tokenizer_v2", "s3tokenizer_v2_long"])
def test_golden_file_is_reproduced(name, golden):
    fixture = load_fixture(golden / f"{name}.json", manifest_keys)
    rows = [compare(name, check) for check in tokenizer.FIXTURES[name](fixture)]
    assert {row.tensor for row in rows} == set(fixture.outputs)
    assert [row for row in rows if row.verdict != "ok"] == []
