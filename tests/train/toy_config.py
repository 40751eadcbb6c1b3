"""A config file for the command line."""

from cosyjax.train.config import MeshConfig, OptimizerConfig, TrainConfig
from tests.train.toy import ToyData, ToyTask


def get_config(num_steps: int = 10, delay_s: float = 0.0, single: bool = True) -> TrainConfig:
    """A toy run on one device."""
    return TrainConfig(
        stage="toy",
        task=ToyTask(single=single),
        data=ToyData(delay_s=delay_s),
        optimizer=OptimizerConfig(peak_lr=1e-2, schedule="constant", weight_decay=0.01),
        mesh=MeshConfig(1, 1, 1),
        num_steps=num_steps,
        eval_every=5,
    )
