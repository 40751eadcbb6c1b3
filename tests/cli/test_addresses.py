"""An address of object storage where a folder is needed is refused; no such folder is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosyjax.cli import main
from cosyjax.io.mounts import check_mounted

CONFIG = str(Path(__file__).parent.parent / "train" / "toy_config.py")
SMOKE = str(Path(__file__).parent.parent.parent / "configs" / "smoke.py")
SOURCE = "data.sources=[{'path': 'gs://bucket/data'}]"


@pytest.mark.parametrize(
    "words, told",
    [
        (["train", "--config", CONFIG, "--workdir", "gs://bucket/runs/lm"], "/bucket/runs/lm"),
        (["train", "--config", f"{SMOKE}:stage=lm", "--workdir", "w", "--set", SOURCE], "/data"),
        (["prepare", "gs://bucket/clips", "data"], "gcsfuse bucket /bucket"),
        (["prepare", "clips", "s3://bucket/data"], "s3://bucket/data is an address"),
        (["prepare", "data", "data", "--bundle", "gs://bucket/front"], "/bucket/front"),
    ],
)
def test_an_address_is_refused_with_the_way_to_mount_it(
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "mount the bucket" in said and told in said
    assert not [path.name for path in tmp_path.iterdir() if ":" in path.name]


def test_folders_pass_whatever_they_are_called() -> None:
    for name in ("/bucket/runs/lm", "runs/a:b", "a:/b", "C:/data", ""):
        check_mounted(name)
