"""The speech tokenizer of cosyjax-mini: it learns by recognising how a text is pronounced.

cosyjax train --config configs/mini_tokenizer.py --workdir runs/mini/tokenizer \
    --set data.sources="[{'path': 'data/phonemes'}]" --set data.tokenizer=phones

Differs: the paper recognises written text, with 200,000 hours to learn spelling from. With seven
hours the pronunciation, where a corpus has it, is the target that says what was spoken.
"""

from cosyjax.data.tokenizer import TokenizerData
from cosyjax.models.asr_head import ASRHeadConfig
from cosyjax.models.mel_probe import MelProbeConfig
from cosyjax.models.speech_tokenizer import SpeechTokenizerConfig
from cosyjax.train.config import OptimizerConfig, TrainConfig
from cosyjax.train.tasks.tokenizer import TokenizerTask

NUM_PHONES = 512  # ids of the vocabulary learnt from pronunciations


def get_config(
    quantizer: str | None = "fsq", probe: bool = False, compute: str = "bfloat16"
) -> TrainConfig:
    """4 M parameters that stay and 4 M that only teach.

    `quantizer=vq` and `quantizer=none` are the paper's baselines; `probe=true` measures the sound
    that the codes keep.
    """
    quantizer = quantizer or "none"  # which the command line reads as None
    width = {"embed_dim": 256, "num_heads": 4, "mlp_dim": 1024, "fsmn_width": 15}
    head = ASRHeadConfig(
        **width,
        num_encoder_layers=2,
        num_decoder_layers=1,
        start_token=NUM_PHONES,
        end_token=NUM_PHONES + 1,
        vocab_size=NUM_PHONES + 64,
        ctc=True,
        compute=compute,
    )
    model = SpeechTokenizerConfig(
        **width,
        num_layers=4,
        quantizer=quantizer,
        num_vectors=4096,
        normalise=True,
        asr=head,
        compute=compute,
    )
    fsq = quantizer == "fsq"
    return TrainConfig(
        stage="tokenizer",
        task=TokenizerTask(
            model,
            balance_weight=0.1 if fsq else 0.0,
            dither=0.3 if fsq else 0.0,
            probe=MelProbeConfig(compute=compute) if probe else None,
        ),
        data=TokenizerData(
            batch_size=5, buckets_s=(3.0, 5.0, 8.0, 12.0), row_multiple=1, text_per_s=20.0
        ),
        optimizer=OptimizerConfig(
            peak_lr=1e-3,
            schedule="wsd",
            warmup_steps=200,
            decay_steps=800,
            b2=0.98,
            weight_decay=0.01,
        ),
        num_steps=4_000,
        eval_every=250,
        checkpoint_every=250,
        log_every=10,
    )
