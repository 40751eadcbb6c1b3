"""The speech tokenizer, learnt by recognising text through its quantizer.

cosyjax train --config configs/tokenizer.py:quantizer=fsq --workdir runs/tokenizer \
    --set data.sources="[{'path': 'data/speech'}]" --set data.tokenizer=data/tokenizer

On a pod, `chips=256` gives each chip two rows of 30 s or as many seconds of shorter ones, a single
chip one.

`quantizer=vq` and `quantizer=none` are the paper's baselines. `data.tokenizer` is what
`cosyjax vocabulary` makes, with no more than `text_vocab` ids; or, for `size=base`, that of
an official bundle (its tokenizer/).
"""

from cosyjax.data.tokenizer import TokenizerData
from cosyjax.models.asr_head import ASRHeadConfig
from cosyjax.models.mel_probe import MelProbeConfig
from cosyjax.models.speech_tokenizer import SpeechTokenizerConfig
from cosyjax.train.config import MeshConfig, OptimizerConfig, TrainConfig, pod_mesh
from cosyjax.train.tasks.tokenizer import TokenizerTask

ROWS_OF_CHIP = 2


def get_config(
    size: str = "small",
    quantizer: str | None = "fsq",
    num_code_dims: int = 8,
    num_levels: int = 3,
    text_vocab: int = 2048,  # ids of the text tokenizer, for "small"
    ctc: bool = True,  # for "small": a second loss, see `ASRHeadConfig.ctc`
    probe: bool = False,  # measure the sound that the codes keep, see `models.mel_probe`
    compute: str = "bfloat16",
    chips: int = 0,  # TPU chips of all slices together; 0: a CPU or a GPU
) -> TrainConfig:
    """8 M parameters for hours of speech, or the released size for thousands."""
    small = {"small": True, "base": False}[size]
    quantizer = quantizer or "none"  # which the command line reads as None
    width = {"embed_dim": 256, "num_heads": 4, "mlp_dim": 1024, "fsmn_width": 15} if small else {}
    depth = {"num_encoder_layers": 2, "num_decoder_layers": 2} if small else {}
    # Behind the ids of the text come a start and an end; 64 keep the table divisible.
    ends = {"start_token": text_vocab, "end_token": text_vocab + 1, "vocab_size": text_vocab + 64}
    head = ASRHeadConfig(
        **width, **depth, **(ends if small else {}), ctc=small and ctc, compute=compute
    )
    model = SpeechTokenizerConfig(
        **width,
        num_layers=4 if small else 6,
        num_code_dims=num_code_dims,
        num_levels=num_levels,
        quantizer=quantizer,
        num_vectors=4096,
        normalise=small,
        asr=head,
        compute=compute,
    )
    rows = ROWS_OF_CHIP * chips if chips > 1 else 1  # one chip holds 9 GB of parameters and moments
    # With little data the levels need help to stay even; see `losses.tokenizer.balance_loss`.
    balance = 0.5 if small and quantizer == "fsq" else 0.0
    dither = 0.3 if small and quantizer == "fsq" else 0.0
    return TrainConfig(
        stage="tokenizer",
        task=TokenizerTask(
            model,
            balance_weight=balance,
            dither=dither,
            probe=MelProbeConfig(compute=compute) if probe else None,
        ),
        data=TokenizerData(
            # rows of the longest bucket: 60 s, 480 s, 60 s a chip (30 s on one)
            batch_size=rows if chips else 5 if small else 16,
            buckets_s=(3.0, 5.0, 8.0, 12.0) if small else (4.0, 6.0, 8.0, 12.0, 16.0, 30.0),
            row_multiple=chips or (1 if small else 8),
            text_per_s=18.0,  # letters, where `text_vocab` has little more than the bytes
        ),
        optimizer=OptimizerConfig(
            peak_lr=1e-3 if small else 3e-4,
            warmup_steps=300 if small else 2_000,
            b2=0.98,
            weight_decay=0.01,
        ),
        mesh=pod_mesh(chips, model.embed_dim) if chips else MeshConfig(),
        num_steps=6_000 if small else 200_000,
        eval_every=500 if small else 5_000,
        checkpoint_every=500 if small else 5_000,
        log_every=10,
    )
