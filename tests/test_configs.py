"""Every file in configs/ builds, and its models have the shapes that their config names."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from cosyjax.aot.topology import parse
from cosyjax.cli.train import read_config_file
from cosyjax.infer.bundle import BundleConfig
from cosyjax.infer.modules import MODULES, parameter_shapes
from cosyjax.train.config import TrainConfig
from cosyjax.train.registry import STAGES

FOLDER = Path(__file__).parent.parent / "configs"
MATRIX = "pods.py"  # a table of configs
FILES = sorted(path.name for path in FOLDER.glob("*.py") if path.name != MATRIX)
WHOLE = pytest.param("cosyvoice2.py", marks=pytest.mark.slow)  # five models of the full size


@pytest.mark.parametrize("name", [n for n in FILES if n != "cosyvoice2.py"] + [WHOLE])
def test_shapes_follow_from_the_config_without_memory(name: str) -> None:
    config = runpy.run_path(str(FOLDER / name))["get_config"]()
    if isinstance(config, TrainConfig):  # its sizes are tested in tests/train
        assert config.stage in STAGES
        return
    assert isinstance(config, BundleConfig)
    for module in MODULES:
        shapes = parameter_shapes(module, config.of(module))
        assert shapes and all(min(shape, default=1) > 0 for shape in shapes.values()), module


def test_every_config_of_the_table_for_pods_divides_over_its_chips() -> None:
    entries = runpy.run_path(str(FOLDER / MATRIX))["get_matrix"]()
    assert len({entry.key for entry in entries}) == len(entries)
    for entry in entries:
        config = read_config_file(str(FOLDER.parent / entry.config))
        if entry.program != "train":
            assert isinstance(config, BundleConfig)
            continue
        topology = parse(entry.topology, entry.slices)
        mesh = config.mesh
        assert mesh.data * mesh.fsdp * mesh.tensor == topology.total_chips, entry
        assert mesh.data % entry.slices == 0, entry
        assert config.data.batch_size % topology.total_chips == 0, entry


def test_the_head_of_the_language_model_has_a_row_per_code_and_end() -> None:
    shapes = parameter_shapes("text_speech_lm", BundleConfig().lm)
    assert shapes["head.kernel"] == (896, 6564)
    assert shapes["text_embedding.embedding"] == (151_936, 896)
