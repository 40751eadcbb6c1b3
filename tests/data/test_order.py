"""Orders of records that are found from a number alone."""

import numpy as np
import pytest

from cosyjax.data.order import PERIOD, Batched, Draw, Mixed, Shuffled, in_order, spread


def test_an_epoch_is_a_permutation_and_the_next_another():
    order = Shuffled(3, np.asarray([5, 6, 9, 11, 20]), (0,))
    epochs = [[order[5 * e + i][0] for i in range(5)] for e in range(4)]
    for number, epoch in enumerate(epochs):
        assert sorted(epoch) == [Draw(3, r, number) for r in (5, 6, 9, 11, 20)]
    assert len({tuple(draw.record for draw in epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (0.7, 0.2, 0.1), (1, 1e-9)])
def test_a_mixture_keeps_to_its_weights_from_the_start(weights):
    choice, share = spread(np.asarray(weights, float)), np.asarray(weights) / sum(weights)
    for end in (10, 100, PERIOD):
        counts = np.bincount(choice[:end], minlength=len(weights))
        assert np.all(np.abs(counts - end * share) <= 2)
    assert np.bincount(choice, minlength=len(weights)).min() >= 1


def test_a_mixture_takes_each_part_in_its_own_order():
    numbers = [range(0, 10**6), range(10**6, 2 * 10**6)]
    mixed = Mixed(numbers, [2.0, 1.0])
    taken = [mixed[i] for i in range(3 * PERIOD)]
    for part in numbers:
        own = [n for n in taken if n in part]
        assert own == list(part[: len(own)]) and len(own) > PERIOD // 2


def test_batches_follow_one_another():
    batched = Batched(1, [(Draw(0, i, 0),) for i in range(6)], 2)
    assert [draw.record for i in range(3) for (draw,) in batched[i].rows] == list(range(6))
    assert batched[0].bucket == 1


def test_the_last_batch_of_a_pass_is_filled_up():
    rows = [(Draw(0, i, 0),) for i in range(5)]
    got = in_order(0, rows, 3)
    assert [len(batch.rows) for batch in got] == [3, 3] and got[1].rows == (*rows[3:], ())
    assert in_order(0, [], 3) == []
