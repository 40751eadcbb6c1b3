"""The flow of cosyjax-mini, trained under all four masks of the paper.

A chunk of the mask is 5 tokens, 0.2 s (officially 25), so that a stream may start with 5.

cosyjax train --config configs/mini_flow.py --workdir runs/mini/flow \
    --set data.sources="[{'path': 'data/mini'}]"
"""

from cosyjax.data.flow import FlowData
from cosyjax.models.estimator import EstimatorConfig
from cosyjax.models.flow import FlowConfig, FlowTrainingConfig
from cosyjax.models.upsample_encoder import UpsampleEncoderConfig
from cosyjax.train.config import OptimizerConfig, TrainConfig
from cosyjax.train.tasks.flow import FlowTask


def get_config(compute: str = "bfloat16") -> TrainConfig:
    """9 M parameters."""
    encoder = UpsampleEncoderConfig(
        embed_dim=256, num_heads=4, mlp_dim=1024, num_layers=2, num_up_layers=1
    )
    estimator = EstimatorConfig(
        embed_dim=128, time_dim=512, num_mid_stages=4, num_blocks=1, num_heads=4, mlp_dim=512
    )
    model = FlowConfig(
        encoder=encoder,
        estimator=estimator,
        mask_chunk=5,
        compute=compute,
        training=FlowTrainingConfig(masks="paper"),
    )
    return TrainConfig(
        stage="flow",
        task=FlowTask(model),
        data=FlowData(buckets=(75, 100, 150, 200, 300), batch_size=4, row_multiple=1),
        optimizer=OptimizerConfig(
            peak_lr=1e-3, schedule="wsd", warmup_steps=200, decay_steps=1_000
        ),
        ema_decay=0.999,
        num_steps=12_000,
        eval_every=250,
        checkpoint_every=250,
        log_every=10,
    )
