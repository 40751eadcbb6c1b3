"""The language model of cosyjax-mini: letters in, speech tokens out; first it learns to spell.

cosyjax train --config configs/mini_lm.py:readings=true --workdir runs/mini/lm_readings \
    --set data.sources="[{'path': 'data/readings'}]"
cosyjax train --config configs/mini_lm.py --workdir runs/mini/lm \
    --set data.sources="[{'path': 'data/mini'}]" --set init_from=runs/mini/lm_readings

Text comes as bytes: seven hours hold few words often enough to learn them whole. English has 17
letters to 25 speech tokens a second, so a block of 10 letters has 12 tokens (N:M of the paper's
section 2.3 is 5:15, for pieces of words): the text stays a little ahead of the speech.
"""

from cosyjax.data.lm import LMData
from cosyjax.models.text_speech_lm import TextSpeechLMConfig
from cosyjax.train.config import OptimizerConfig, TrainConfig
from cosyjax.train.tasks.lm import LMTask


def get_config(
    readings: bool = False,  # train on pronunciations, see `cosyjax readings`
    num_layers: int = 6,
    compute: str = "bfloat16",
) -> TrainConfig:
    """8 M parameters, of which 4 M are tables."""
    model = TextSpeechLMConfig(
        num_layers=num_layers,
        embed_dim=256,
        num_heads=4,
        num_kv_heads=1,
        mlp_dim=704,
        text_vocab_size=276,
        rope_theta=1e4,
        mix_ratio=(10, 12),
        scan_layers=True,
        attention="by_head",
        compute=compute,
    )
    return TrainConfig(
        stage="lm",
        task=LMTask(model, loss_chunk=128, speech_dropout=0.0 if readings else 0.2),
        data=LMData(max_length=320, batch_size=12, ratio=model.mix_ratio),
        optimizer=OptimizerConfig(
            peak_lr=1.5e-3,
            schedule="wsd",
            warmup_steps=200,
            decay_steps=300 if readings else 1_000,
            b2=0.98,
            weight_decay=0.1,
        ),
        num_steps=1_200 if readings else 12_000,
        eval_every=250,
        checkpoint_every=250,
        log_every=10,
    )
