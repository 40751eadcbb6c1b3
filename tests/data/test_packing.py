"""First-fit packing against a plain loop, and rounds that hold every record."""

import numpy as np
import pytest

from cosyjax.data.packing import Packed, first_fit, pack_once


def by_loop(lengths, capacity):
    room, rows = [], []
    for length in lengths:
        row = next((i for i, left in enumerate(room) if left >= length), len(room))
        if row == len(room):
            room.append(capacity)
        room[row] -= length
        rows.append(row)
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_every_sequence_goes_into_the_first_row_with_room(seed):
    lengths = np.sort(np.random.default_rng(seed).integers(1, 51, 300))[::-1]
    np.testing.assert_array_equal(first_fit(lengths, 50), by_loop(lengths, 50))


def test_one_pass_goes_by_the_order_of_the_records():
    lengths = np.random.default_rng(0).integers(1, 51, 100)
    rows = pack_once(2, np.arange(100) + 7, lengths, 50)
    wanted = by_loop(lengths, 50)
    assert all(wanted[draw.record - 7] == i for i, row in enumerate(rows) for draw in row)
    assert sum(map(len, rows)) == 100 and rows[0][0] == (2, 7, 0)


def test_rounds_have_other_rows_of_the_same_records():
    lengths = np.random.default_rng(0).integers(30, 400, 2000)
    packed = Packed(0, np.arange(2000), lengths, 1024, seed=3)
    rounds = [[packed[r * packed.num_rows + i] for i in range(packed.num_rows)] for r in (0, 1)]
    first, second = ([draw for row in rows for draw in row] for rows in rounds)
    assert {draw.record for draw in first} == set(range(2000)) and len(first) == len(second)
    assert {draw.epoch for draw in first}.isdisjoint({draw.epoch for draw in second})
    assert [d.record for d in first] != [d.record for d in second]
    assert all(sum(lengths[d.record] for d in row) <= 1024 for rows in rounds for row in rows)
    assert max(len(row) for row in rounds[0]) == packed.most and packed.fill > 0.99


def test_a_small_source_packs_several_epochs_together_so_that_its_rows_are_full():
    packed = Packed(0, np.arange(3), np.full(3, 40), 100, seed=0)
    assert packed.num_rows >= 256 and packed.fill > 0.79  # one epoch by itself: 120 of 200
    uses = [draw for i in range(packed.num_rows) for draw in packed[i]]
    assert len(uses) == len(set(uses)) == 3 * (1 + max(draw.epoch for draw in uses))
