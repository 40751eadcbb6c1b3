"""Writes a folder in the official layout, filled with random weights.

    python -m tests.tools.official_folder DST --size tiny|full --seed 0

Weights are drawn by the recipe of the golden files, so activations keep a sensible size. The full
size needs 3 GB of disk and about 5 GB of memory.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from cosyjax import shapes
from cosyjax.convert import mapping, names_lm, onnx_speaker, onnx_tokenizer_graph
from cosyjax.convert.export import backbone_config
from cosyjax.convert.official import BACKBONE, SOURCES
from cosyjax.convert.parity.fixture import rebuild
from cosyjax.infer.bundle import BundleConfig
from cosyjax.infer.modules import parameter_shapes
from cosyjax.models.estimator import EstimatorConfig
from cosyjax.models.flow import FlowConfig
from cosyjax.models.hift import HiFTConfig
from cosyjax.models.speaker_encoder import SpeakerEncoderConfig
from cosyjax.models.speech_tokenizer import SpeechTokenizerConfig
from cosyjax.models.text_speech_lm import TextSpeechLMConfig
from cosyjax.models.upsample_encoder import UpsampleEncoderConfig
from cosyjax.text.tokenizer import load_tokenizer
from tests.tools.toy_text import QWEN2_BASE_SIZE, write_toy_tokenizer

Tensors = dict[str, np.ndarray]

TRANSCRIPT = "hello world, the weather is nice today."
FULL = BundleConfig(speaker_encoder=SpeakerEncoderConfig(folded=True))
TINY = BundleConfig(
    lm=TextSpeechLMConfig(
        num_layers=2,
        embed_dim=16,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        mlp_dim=32,
        text_vocab_size=512,
    ),
    flow=FlowConfig(
        encoder=UpsampleEncoderConfig(
            embed_dim=16, num_heads=2, mlp_dim=16, num_layers=1, num_up_layers=1
        ),
        estimator=EstimatorConfig(
            embed_dim=16, time_dim=16, num_mid_stages=1, num_blocks=1, head_dim=2, mlp_dim=16
        ),
    ),
    vocoder=HiFTConfig(base_channels=16, f0_channels=8, f0_layers=2),
    speech_tokenizer=SpeechTokenizerConfig(embed_dim=64, num_heads=1, num_layers=1, mlp_dim=64),
    speaker_encoder=SpeakerEncoderConfig(
        head_dim=4, init_dim=8, growth=4, bottleneck=8, num_layers=(1, 2, 1), folded=True
    ),
)


def random_tensors(module: str, config: BundleConfig, seed: int, gain: float = 1.0) -> Tensors:
    """Draws {official key: array} for one module, in the official order."""
    ours = parameter_shapes(module, config.of(module))
    keys = []
    for rule in SOURCES[module].rules(config.of(module)):
        order = mapping.LAYOUTS[rule.layout]
        shape = ours[rule.ours]
        inverse = range(len(shape)) if order is None else np.argsort(order)
        keys.append((rule.theirs, [shape[axis] for axis in inverse]))
    tensors = rebuild(keys, seed, gain)
    if module != "text_speech_lm":
        return tensors
    ordered: Tensors = {}
    for key, value in tensors.items():
        if key == "llm_decoder.weight":  # the backbone's unused head stands before ours
            ordered[names_lm.TIED_HEAD] = tensors[names_lm.TEXT_TABLE]
        ordered[key] = value
    return ordered


def save_torch(path: Path, tensors: Tensors, **more: object) -> None:
    """Saves a state dict as the official trainer does; one array is one storage."""
    known: dict[int, torch.Tensor] = {}
    entries = {k: known.setdefault(id(v), torch.from_numpy(v)) for k, v in tensors.items()}
    torch.save(entries | more, path)


def speakers(seed: int, text_ids: list[int]) -> dict[str, dict[str, torch.Tensor]]:
    """`spk2info.pt`: a speaker of the sft kind and one with a prompt of 3 s."""
    stream = np.random.RandomState(seed)
    normal = lambda *shape: torch.from_numpy(stream.standard_normal(shape).astype(np.float32))
    ids = lambda n, top: torch.from_numpy(stream.randint(0, top, (1, n)).astype(np.int32))
    length = lambda n: torch.tensor([n], dtype=torch.int32)
    text = torch.tensor([text_ids], dtype=torch.int32)
    tokens, embedding = ids(75, shapes.CODEBOOK_SIZE), normal(1, shapes.SPEAKER_DIM)
    prompted = {
        "prompt_text": text,
        "prompt_text_len": length(len(text_ids)),
        "llm_prompt_speech_token": tokens,
        "llm_prompt_speech_token_len": length(75),
        "flow_prompt_speech_token": tokens,
        "flow_prompt_speech_token_len": length(75),
        "prompt_speech_feat": normal(1, 150, shapes.NUM_MELS) - 5,
        "prompt_speech_feat_len": length(150),
        "llm_embedding": embedding,
        "flow_embedding": embedding,
    }
    return {"中文女": {"embedding": normal(1, shapes.SPEAKER_DIM)}, "my/voice": prompted}


def write_official_folder(
    folder: Path, config: BundleConfig = TINY, seed: int = 0, base_size: int | None = None
) -> None:
    """Fills `folder`.

    Args:
      folder: created if absent.
      config: sizes; the tiny ones take less than a second.
      seed: of the weights.
      base_size: ids of the text tokenizer before its added tokens; None for the toy's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_toy_tokenizer(folder / BACKBONE, base_size)
    text = json.dumps(backbone_config(config.lm))
    (folder / BACKBONE / "config.json").write_text(text)
    for index, module in enumerate(SOURCES):
        path = folder / SOURCES[module].files[0]
        tensors = random_tensors(module, config, seed + index)
        if module == "speech_tokenizer":
            onnx_tokenizer_graph.write_tokenizer(path, tensors)
        elif module == "speaker_encoder":
            onnx_speaker.write_campplus(path, tensors, config.speaker_encoder)
        else:
            save_torch(path, tensors)
    text_ids = load_tokenizer(folder / BACKBONE).encode(TRANSCRIPT)
    torch.save(speakers(seed, text_ids), folder / "spk2info.pt")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.size == "full":
        write_official_folder(args.folder, FULL, args.seed, QWEN2_BASE_SIZE)
    else:
        write_official_folder(args.folder, TINY, args.seed)
    total = sum(path.stat().st_size for path in args.folder.rglob("*") if path.is_file())
    print(f"wrote {args.folder}: {total:,} bytes")


if __name__ == "__main__":
    main()
