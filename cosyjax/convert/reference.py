"""Timed references in PyTorch: transformers' Qwen2 and the PyPI package s3tokenizer.

Used by `cosyjax bench` alone, where they are installed. Each maker returns a function without
arguments that does one unit of work, or None with the reason why it is not here.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

Work = Callable[[], Any]


class Reference(NamedTuple):
    """`run` is None where the package is missing; `why` then says so."""

    name: str
    run: Work | None
    why: str = ""


def qwen2_prefill(config: Any, num_positions: int) -> Reference:
    """A pass of transformers' Qwen2 over `num_positions` embeddings, float32."""
    made = _qwen2(config)
    if isinstance(made, Reference):
        return made
    torch, model = made
    x = torch.randn(1, num_positions, config.embed_dim)

    def run() -> Any:
        with torch.inference_mode():
            return model(inputs_embeds=x, use_cache=True).last_hidden_state

    return Reference("transformers Qwen2", run)


def qwen2_decode(config: Any, num_prompt: int, num_tokens: int) -> Reference:
    """`num_tokens` cached steps of transformers' Qwen2 after a prompt, float32, batch 1.

    The speech head and a log-softmax are applied at each step, as in decoding.
    """
    made = _qwen2(config)
    if isinstance(made, Reference):
        return made
    torch, model = made
    head = torch.nn.Linear(config.embed_dim, config.codebook_size + 3)
    prompt, step = torch.randn(1, num_prompt, config.embed_dim), torch.randn(1, 1, config.embed_dim)

    def run() -> Any:
        with torch.inference_mode():
            cache = model(inputs_embeds=prompt, use_cache=True).past_key_values
            for _ in range(num_tokens):
                out = model(inputs_embeds=step, past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                head(out.last_hidden_state[:, -1]).log_softmax(-1)

    return Reference("transformers Qwen2", run)


def qwen2_sizes(config: Any) -> dict[str, Any]:
    """Sizes of a TextSpeechLMConfig under the names of transformers' Qwen2."""
    return {
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "intermediate_size": config.mlp_dim,
    }


def _qwen2(config: Any) -> Any:
    try:
        import torch
        from transformers import Qwen2Config, Qwen2Model
    except ImportError as error:
        return Reference("transformers Qwen2", None, f"not installed: {error.name}")
    sizes = Qwen2Config(**qwen2_sizes(config), vocab_size=16)  # embeddings are given: no table
    torch.manual_seed(0)
    return torch, Qwen2Model(sizes).eval()


def s3tokenizer(num_frames: int, num_clips: int = 1) -> Reference:
    """The package's tokenizer v2 at full size with random weights, clip after clip.

    One clip at a time, as the official extraction of speech tokens runs it.
    """
    name = "s3tokenizer"
    try:
        import torch
    except ImportError:
        return Reference(name, None, "not installed: torch")
    # The package imports torchaudio for reading files, which its model does not need.
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError):
        sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    try:
        from s3tokenizer.model_v2 import S3TokenizerV2
    except ImportError as error:
        return Reference(name, None, f"not installed: {error.name}")
    torch.manual_seed(0)
    model = S3TokenizerV2("speech_tokenizer_v2_25hz").eval()
    mel, lengths = torch.randn(1, 128, num_frames), torch.tensor([num_frames])

    def run() -> Any:
        with torch.inference_mode():
            return [model.quantize(mel, lengths) for _ in range(num_clips)]

    return Reference(name, run)
