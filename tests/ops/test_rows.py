import numpy as np

from cosyjax.ops.rows import append, shift_left

X = np.arange(12.0).reshape(2, 3, 2)


def test_every_row_drops_its_own_entries():
    got = np.asarray(shift_left(X, np.array([0, 2])))
    np.testing.assert_array_equal(got[0], X[0])
    np.testing.assert_array_equal(got[1], [[10, 11], [0, 0], [0, 0]])


def test_every_row_takes_new_entries_at_its_own_place():
    new = -np.ones((2, 2, 2))
    got = np.asarray(append(X, new, np.array([1, 3])))
    np.testing.assert_array_equal(got[0], [[0, 1], [-1, -1], [-1, -1], [0, 0], [0, 0]])
    np.testing.assert_array_equal(got[1, :3], X[1])
    np.testing.assert_array_equal(got[1, 3:], new[1])
