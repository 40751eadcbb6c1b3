"""What `cosyjax bench train` feeds its cases with."""

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.data.config import SourceConfig
from cosyjax.data.lm import LMData
from cosyjax.eval.bench import Feedable
from cosyjax.train import bench


def test_both_sides_train_on_the_same_tokens():
    lengths = bench.sequence_lengths()
    batches = bench.packed_batches(lengths)
    kept = sum(int(np.sum(batch["segment_ids"] > 0)) for batch in batches)
    assert kept == lengths.sum() == bench.CASES["train_lm"].amount
    assert all(batch["ids"].shape == (bench.ROWS, bench.ROW) for batch in batches)


def test_the_data_that_a_step_waits_for_are_real_features(tmp_path):
    lengths = bench.sequence_lengths()[:12]
    bench.write_features(tmp_path, lengths)
    data = LMData(sources=(SourceConfig(str(tmp_path)),), max_length=bench.ROW, batch_size=2)
    found = data.open("train")[0]
    assert len(found) == 12 and found[0]["mel"].shape == (2 * len(found[0]["speech_tokens"]), 80)
    tokens = zip(found.column("num_text_tokens"), found.column("num_speech_tokens"))
    assert [sum(pair) for pair in tokens] == lengths.tolist()


def test_the_wait_for_data_is_a_share_of_steps_on_real_batches():
    taken = []

    def advance(batch: dict[str, np.ndarray]) -> jax.Array:
        taken.append(sorted(batch))
        return jnp.zeros(())

    fed = bench.Fed(lambda: None, advance)
    assert isinstance(fed, Feedable) and 0.0 <= fed.data_wait(num_steps=3) <= 1.0
    assert taken == [["ids", "kinds", "positions", "segment_ids", "targets"]] * 4
