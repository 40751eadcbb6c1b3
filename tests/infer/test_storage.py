"""Parameters in fewer bytes: small, close, and float32 again."""

import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.infer import storage

DRAWN = np.random.default_rng(0)
ARRAYS = {
    "kernel": DRAWN.standard_normal((3, 64, 48)).astype(np.float32) * np.logspace(-3, 2, 48),
    "bias": DRAWN.standard_normal(48).astype(np.float32),
    "zeros": np.zeros((128, 64), np.float32),
}
ARRAYS = {name: array.astype(np.float32) for name, array in ARRAYS.items()}


def size(arrays):
    return sum(array.nbytes for array in arrays.values())


@pytest.mark.parametrize("store", storage.STORES)
def test_names_shapes_and_types_come_back(store):
    packed, metadata = storage.pack(ARRAYS, store)
    again = storage.unpack(packed, metadata)
    assert {n: a.shape for n, a in again.items()} == {n: a.shape for n, a in ARRAYS.items()}
    assert all(a.dtype == np.float32 for a in again.values())
    assert not np.any(again["zeros"])


def test_float32_is_written_as_it_is():
    packed, metadata = storage.pack(ARRAYS, "float32")
    assert not metadata and all(np.array_equal(packed[n], ARRAYS[n]) for n in ARRAYS)


def test_float16_takes_half_and_keeps_eleven_bits():
    packed, metadata = storage.pack(ARRAYS, "float16")
    assert 2 * size(packed) == size(ARRAYS)
    for name, array in storage.unpack(packed, metadata).items():
        np.testing.assert_allclose(array, ARRAYS[name], rtol=2.0**-11, atol=3e-8)


def test_int8_takes_a_quarter_and_errs_by_half_a_step_of_each_column():
    packed, metadata = storage.pack(ARRAYS, "int8")
    assert size(packed) < 0.27 * size(ARRAYS)
    kernel = storage.unpack(packed, metadata)["kernel"]
    step = np.max(np.abs(ARRAYS["kernel"]), axis=(0, 1)) / 127
    assert np.all(np.abs(kernel - ARRAYS["kernel"]) <= 0.501 * step)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="int8"):
        storage.pack(ARRAYS, "int4")
    with pytest.raises(InputError, match="loud.*7e.04.*float16"):
        storage.pack({"loud": np.full(3, 7e4, np.float32)}, "float16")
    with pytest.raises(InputError, match="int2"):
        storage.unpack({}, {"store": "int2"})
