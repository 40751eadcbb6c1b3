"""`cosyjax train`: what it refuses, with exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cosyjax.cli import main
from cosyjax.cli.train import read_config_file
from cosyjax.config import override, to_dict
from cosyjax.errors import InputError
from cosyjax.train import config as train_config
from cosyjax.train import distributed
from cosyjax.train.config import OptimizerConfig, TrainConfig
from tests.train.toy import ToyData, ToyTask

CONFIG = "tests/train/toy_config.py"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_a_config_file_takes_arguments_by_name() -> None:
    config = read_config_file(f"{CONFIG}:num_steps=7,single=false")
    assert config.num_steps == 7 and config.task.single is False


@pytest.mark.parametrize(
    "words, told",
    [
        (["--config", "no.py"], "no such file"),
        (["--config", f"{CONFIG}:num_step=3"], "did you mean 'num_steps'"),
        (["--config", f"{CONFIG}:num_steps"], "is not key=value"),
        (["--config", CONFIG, "--set", "optimizer.peaklr=1"], "did you mean 'peak_lr'"),
        (["--config", CONFIG, "--set", "num_steps=many"], "int is needed"),
        (["--config", CONFIG, "--set", "task.embed=6", "mesh.fsdp=4"], "embed=6 does not divide"),
        (["--config", CONFIG, "--process", "1"], "go together"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--workdir", str(tmp_path / "run"), *words]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert main(["train", "--config", CONFIG, "--workdir", str(tmp_path / "file"), "-q"]) == 2


def test_a_process_number_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match="0 .. 1"):
        distributed.start("localhost:1", 2, 2)


def test_a_config_survives_json() -> None:
    config = TrainConfig(
        stage="toy",
        task=ToyTask(single=False),
        data=ToyData(),
        group_optimizers={"critic": OptimizerConfig(peak_lr=0.5)},
        profile_steps=(1, 2),
    )
    assert train_config.read_config(json.loads(json.dumps(to_dict(config)))) == config


def test_a_field_that_came_after_a_checkpoint_has_its_default() -> None:
    config = TrainConfig("toy", ToyTask(), ToyData())
    older = to_dict(config)
    del older["task"]["single"], older["ema_decay"]
    filled = train_config.fill_defaults(older, config)
    assert train_config.check_resumable(filled, to_dict(config)) == []
    unreadable = {**older, "task": {"gone": 1}}
    assert train_config.fill_defaults(unreadable, config) == unreadable


def test_an_optimizer_of_a_group_is_set_by_its_name() -> None:
    config = TrainConfig("toy", ToyTask(), ToyData(), group_optimizers={"a": OptimizerConfig()})
    changed = override(config, "group_optimizers.a.peak_lr=0.5")
    assert changed.optimizer_of("a").peak_lr == 0.5 and config.optimizer_of("a").peak_lr == 3e-4
    with pytest.raises(InputError, match="group_optimizers.b.peak_lr"):
        override(config, "group_optimizers.b.peak_lr=0.5")


def test_an_unknown_stage_names_the_stages() -> None:
    with pytest.raises(InputError, match="lm"):
        train_config.read_config({"stage": "ml", "task": {}, "data": {}})
