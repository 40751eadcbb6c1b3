"""A whole run: what it writes, how it goes on, and what stops it."""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.train.checkpoint import Checkpoints, read_workdir
from cosyjax.train.config import MeshConfig, OptimizerConfig, TrainConfig
from cosyjax.train.loop import train
from cosyjax.train.partition import place_batch
from cosyjax.train.program import make_program
from cosyjax.train.report import read_metrics
from cosyjax.train.start import find_start
from tests import contracts
from tests.train.toy import ToyData, ToyTask

CONFIG = TrainConfig(
    stage="toy",
    task=ToyTask(),
    data=ToyData(),
    optimizer=OptimizerConfig(peak_lr=0.01),
    mesh=MeshConfig(1, 1, 1),
    num_steps=8,
    eval_every=4,
    ema_decay=0.5,
)
quiet = lambda line: None


def change(**fields) -> TrainConfig:
    return dataclasses.replace(CONFIG, **fields)


def steps_in(workdir: Path) -> list[str]:
    return sorted(p.name for p in (workdir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory):
    workdir = tmp_path_factory.mktemp("finished")
    said: list[str] = []
    return workdir, train(CONFIG, workdir, tell=said.append), said


@pytest.fixture
def copy(finished, tmp_path: Path) -> Path:
    shutil.copytree(finished[0], tmp_path / "copy")
    return tmp_path / "copy"


def test_every_step_has_one_row_and_the_held_out_loss_falls(finished) -> None:
    rows = read_metrics(finished[0])
    assert [row["step"] for row in rows] == list(range(1, 9))
    held = {row["step"]: row["heldout_loss"] for row in rows if "heldout_loss" in row}
    assert set(held) == {4, 8} and held[8] < held[4]
    assert rows[-1]["heldout_used"] == 2 * 4
    assert {"loss", "lr", "grad_norm", "update_norm", "tokens_per_s", "data_wait"} <= set(rows[-1])


def test_the_held_out_loss_is_the_mean_over_targets(finished) -> None:
    workdir, state, _ = finished
    batches = [dict(rows) for rows in CONFIG.data.dataset("heldout", seed=0)]
    batch = {name: np.concatenate([rows[name] for rows in batches]) for name in batches[0]}
    wanted = CONFIG.task.evaluate(state.smooth, batch, jax.random.key(0))["loss"]
    np.testing.assert_allclose(read_metrics(workdir)[-1]["heldout_loss"], wanted, rtol=1e-5)


def test_an_evaluation_leaves_curves_sound_and_spectrogram(finished) -> None:
    names = ("curves.png", "samples/step-8/tone.wav", "samples/step-8/tone.png")
    assert all((finished[0] / name).stat().st_size > 1000 for name in names)


def test_the_progress_line_says_rates_and_time_left(finished) -> None:
    line = next(line for line in finished[2] if line.startswith("step 4/8"))
    for word in ("loss", "held-out", "tokens/s", "audio h/s", "MFU", "data", "left"):
        assert word in line


def test_a_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    contracts.assert_resumes(change(samples=False), tmp_path, half=4)


def test_a_finished_run_is_restored_onto_another_mesh(finished, copy: Path) -> None:
    said: list[str] = []
    state = train(change(mesh=MeshConfig(1, 4, 2)), copy, tell=said.append)
    kernel = state.params["generator"]["up"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 8)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(finished[1]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any("mesh.fsdp: 1 -> 4" in line for line in said)
    assert any("nothing left to do" in line for line in said)


def test_a_resumed_step_compiles_once(copy: Path) -> None:
    program = make_program(CONFIG)
    checkpoints = Checkpoints(copy)
    state, iterator, _, step = find_start(program, copy, checkpoints, quiet)
    for _ in range(3):
        rows = {k: v for k, v in next(iterator).items() if k != "records"}
        state, _ = program.step(state, place_batch(rows, program.layout.mesh))
    checkpoints.close()
    assert step == 8 and program.step._cache_size() == 1


def test_a_changed_config_names_the_fields_and_what_to_do(copy: Path) -> None:
    other = change(optimizer=OptimizerConfig(peak_lr=0.02), log_every=2)
    with pytest.raises(
        InputError, match=r"optimizer.peak_lr: 0.01 -> 0.02\. .*--no-resume"
    ) as told:
        train(other, copy, tell=quiet)
    assert "log_every" not in str(told.value)


def test_a_position_that_all_processes_share_serves_any_number(finished, copy: Path) -> None:
    wanted = position_after_resuming(finished[0])
    folder = copy / "checkpoints" / "8" / "data"
    (folder / "process_0-of-1.json").rename(folder / "process_0-of-2.json")
    shutil.copy(folder / "process_0-of-2.json", folder / "process_1-of-2.json")
    assert position_after_resuming(copy) == wanted


def test_positions_that_differ_over_processes_start_the_data_over(copy: Path) -> None:
    folder = copy / "checkpoints" / "8" / "data"
    (folder / "process_0-of-1.json").rename(folder / "process_0-of-2.json")
    (folder / "process_1-of-2.json").write_text(json.dumps({"next_index": 99}))
    assert position_after_resuming(copy) == (
        8,
        iter(CONFIG.data.dataset("train", seed=8)).get_state(),
    )


def position_after_resuming(workdir: Path):
    checkpoints = Checkpoints(workdir)
    found = find_start(make_program(CONFIG), workdir, checkpoints, quiet)
    checkpoints.close()
    return found.seed, found.iterator.get_state()


@pytest.mark.slow
def test_starting_anew_moves_the_run_before_aside(copy: Path) -> None:
    train(change(samples=False), copy, resume=False, tell=quiet)
    assert [row["step"] for row in read_metrics(copy)] == list(range(1, 9))
    assert len(read_metrics(copy / "old-1")) == 8 and steps_in(copy / "old-1") == ["4", "8"]


def test_a_workdir_is_read_back_to_its_config_and_averages(finished) -> None:
    config, params = read_workdir(finished[0])
    assert config == CONFIG
    np.testing.assert_array_equal(
        params["generator"]["up"]["kernel"], finished[1].smooth["generator"]["up"]["kernel"]
    )


def test_a_run_starts_from_another_workdir(finished, tmp_path: Path) -> None:
    config = change(init_from=str(finished[0]), ema_decay=0.0)
    checkpoints = Checkpoints(tmp_path)
    state, _, _, step = find_start(make_program(config), tmp_path, checkpoints, quiet)
    assert step == 0
    np.testing.assert_array_equal(
        state.params["generator"]["down"]["kernel"],
        finished[1].smooth["generator"]["down"]["kernel"],
    )


def test_what_the_task_loads_may_be_part_of_a_tree(tmp_path: Path) -> None:
    config = change(init_from="some-bundle", ema_decay=0.0)
    state = find_start(make_program(config), tmp_path, Checkpoints(tmp_path), quiet).state
    up = state.params["generator"]["up"]
    np.testing.assert_array_equal(up["bias"], 2.0)
    assert np.std(up["kernel"]) > 0.1


def test_a_loaded_tree_of_another_size_names_the_parameter(tmp_path: Path) -> None:
    class Wrong(ToyTask):
        def load(self, path: str):
            return {"generator": {"up": {"bias": np.zeros(3)}}}

    config = change(init_from="some-bundle", task=Wrong())
    with pytest.raises(
        InputError, match=r"generator\.up\.bias: shape \(3,\); the model has \(16,\)"
    ):
        find_start(make_program(config), tmp_path, Checkpoints(tmp_path), quiet)


def test_the_best_step_is_kept_beside_the_last_ones(tmp_path: Path) -> None:
    program = make_program(CONFIG)
    state, iterator = program.init(jax.random.key(0)), iter(CONFIG.data.dataset("train", seed=0))
    next(iterator)
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_best=1)
    for step, loss in enumerate([1.0, 2.0, None, 4.0]):
        checkpoints.save(step, state, iterator, CONFIG, data_seed=0, heldout_loss=loss)
    checkpoints.wait()
    assert checkpoints.best() == (0, 1.0) and checkpoints.latest() == 3
    checkpoints.close()
    assert steps_in(tmp_path) == ["0", "2", "3"]


def test_a_loss_that_is_not_finite_names_step_and_records(tmp_path: Path) -> None:
    config = change(data=ToyData(poison=7), checkpoint_every=2, samples=False)
    with pytest.raises(InputError, match=r"step \d+: .*loss is nan.*clip-7") as told:
        train(config, tmp_path, tell=quiet)
    step = int(str(told.value).split()[1].rstrip(":"))
    assert "clip-7" in json.loads((tmp_path / "nonfinite.json").read_text())["records"]
    assert all(int(name) < step for name in steps_in(tmp_path))
    assert [row["step"] for row in read_metrics(tmp_path)] == list(range(1, step))


def test_data_that_ends_says_after_how_many_steps(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ended after 6 steps"):
        train(change(data=ToyData(repeat=False), samples=False), tmp_path, tell=quiet)


def test_a_full_disk_is_told_and_leaves_the_last_checkpoint_whole(tmp_path: Path) -> None:
    config = change(task=ToyTask(mlp=4096), ema_decay=0.0)
    program = make_program(config)
    state, iterator = program.init(jax.random.key(0)), iter(config.data.dataset("train", seed=0))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, iterator, config, data_seed=0)
    checkpoints.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(InputError, match="the disk is full.*make room"):
            checkpoints.save(2, state, iterator, config, data_seed=0)
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    again = Checkpoints(tmp_path, clean=True)
    assert again.latest() == 1
    restored = again.restore(1, program.layout).state
    np.testing.assert_array_equal(
        restored.params["generator"]["up"]["kernel"], state.params["generator"]["up"]["kernel"]
    )
    again.save(2, state, iterator, config, data_seed=0)
    again.close()
    assert steps_in(tmp_path) == ["1", "2"]


def test_too_little_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = make_program(CONFIG)
    state, iterator = program.init(jax.random.key(0)), iter(CONFIG.data.dataset("train", seed=0))
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 1000))
    with pytest.raises(InputError, match="5,448 bytes are needed and 1,000 are free"):
        checkpoints.save(1, state, iterator, CONFIG, data_seed=0)
    assert steps_in(tmp_path) == []
