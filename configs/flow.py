"""The flow: one dial for a family of sizes; depth 12 is the released one.

cosyjax train --config configs/flow.py:depth=4 --workdir runs/flow \
    --set data.sources="[{'path': 'data/speech'}]"
cosyjax train --config configs/flow.py:size=cosyvoice2,masks=paper --workdir runs/flow \
    --set init_from=BUNDLE

On a pod, `chips=256` gives each chip four rows of 30 s or as many seconds of shorter ones.

`masks=paper` draws one of four masks a row, which lets one model speak in chunks of any kind; the
official code draws full or chunk for the whole batch. `--set task.vocoder=BUNDLE` lets evaluations
write what the model says.
"""

from cosyjax.data.flow import FlowData
from cosyjax.models.estimator import EstimatorConfig
from cosyjax.models.flow import FlowConfig, FlowTrainingConfig
from cosyjax.models.upsample_encoder import UpsampleEncoderConfig
from cosyjax.train.config import MeshConfig, OptimizerConfig, TrainConfig, pod_mesh
from cosyjax.train.tasks.flow import FlowTask

ROWS_OF_CHIP = 4


def get_config(
    depth: int = 4,
    size: str = "",  # "cosyvoice2": depth 12
    masks: str = "official",
    compute: str = "bfloat16",
    chips: int = 0,  # TPU chips of all slices together; 0: a CPU or a GPU
) -> TrainConfig:
    """One size of the family."""
    depth = 12 if size == "cosyvoice2" else depth
    large = depth > 6
    on_pod = {"attention": "splash", "scan_layers": True} if chips else {}
    training = FlowTrainingConfig(masks=masks, remat="dots" if large else "none", **on_pod)
    return TrainConfig(
        stage="flow",
        task=FlowTask(family(depth, compute, training)),
        data=FlowData(
            buckets=(100, 150, 200, 300, 400, 600, 750) if large else (75, 100, 150, 200, 300),
            # rows of the longest bucket
            batch_size=ROWS_OF_CHIP * chips if chips else 16 if large else 4,
            row_multiple=chips or (8 if large else 1),
        ),
        optimizer=OptimizerConfig(
            peak_lr=2e-4 if large else 1e-3,
            warmup_steps=2_500 if large else 200,
            schedule="cosine",
        ),
        mesh=pod_mesh(chips) if chips else MeshConfig(),
        ema_decay=0.999,
        num_steps=100_000 if large else 6_000,
        eval_every=2_500 if large else 250,
        checkpoint_every=2_500 if large else 250,
        log_every=10,
    )


def family(depth: int, compute: str, training: FlowTrainingConfig) -> FlowConfig:
    """The member of `depth` middle stages: 4 has 9 M parameters, 12 the official 113 M."""
    width = 64 * -(-depth // 3)
    encoder = UpsampleEncoderConfig(
        embed_dim=2 * width,
        num_heads=width // 32,
        mlp_dim=8 * width,
        num_layers=max(depth // 2, 1),
        num_up_layers=max(depth // 3, 1),
    )
    estimator = EstimatorConfig(
        embed_dim=width,
        time_dim=4 * width,
        num_mid_stages=depth,
        num_blocks=max(depth // 3, 1),
        num_heads=width // 32,
        mlp_dim=4 * width,
    )
    return FlowConfig(encoder=encoder, estimator=estimator, compute=compute, training=training)
