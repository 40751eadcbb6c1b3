"""The seam between two chunks."""

import numpy as np

from cosyjax.infer.seam import cross_fade


def test_the_seam_is_a_hamming_fade_that_adds_up_to_more_than_one():
    before, after = np.full(100, 2.0, np.float32), np.ones(250, np.float32)
    wav = cross_fade(before, after)
    window = np.hamming(200)
    np.testing.assert_allclose(wav[:100], window[:100] + 2 * window[100:], rtol=1e-6)
    np.testing.assert_array_equal(wav[100:], 1.0)
    flat = cross_fade(np.ones(3840, np.float32), np.ones(4000, np.float32))
    assert 1.0797 < flat[:3840].min() and flat[:3840].max() < 1.0801
