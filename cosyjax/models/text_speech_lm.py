"""The text-speech language model: text tokens in, speech tokens out (arXiv 2412.10117, 2.3).

A Qwen2 decoder reads one sequence of embeddings taken from three tables (two special ids, text,
speech; see `ops.interleave`) and a linear head after its final norm predicts the next speech id.
Ids above the codes: eos = codebook_size, one unused id, fill = codebook_size + 2; all three end
decoding.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.errors import InputError
from cosyjax.layers import transformer
from cosyjax.layers.attention import Span
from cosyjax.layers.basic import Dense, Embed
from cosyjax.layers.transformer import Transformer, TransformerConfig
from cosyjax.ops import interleave
from cosyjax.ops.interleave import Layout

NUM_SPECIAL = 2  # sos and task
NUM_ENDS = 3  # eos, unused, fill
PADDING_VALUE = -1.0  # embedding of padding, as the official collation has it


@dataclasses.dataclass(frozen=True)
class TextSpeechLMConfig(TransformerConfig):
    """Sizes of the language model; the defaults are CosyVoice2-0.5B."""

    text_vocab_size: int = 151_936  # rows of the text embedding
    codebook_size: int = 6561  # speech codes
    mix_ratio: tuple[int, int] = (5, 15)  # text and speech tokens of a bistream block
    # Operand type of products with a single row (decoding one sequence). A bfloat16 product of
    # one row is 10 times slower than float32 on a CPU; on an accelerator set it as `compute`.
    row_compute: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.mix_ratio) < 1:
            raise InputError(f"mix_ratio={self.mix_ratio}: both counts must be at least 1")

    @property
    def eos(self) -> int:
        return self.codebook_size

    @property
    def fill(self) -> int:
        return self.codebook_size + 2

    @property
    def speech_vocab_size(self) -> int:
        return self.codebook_size + NUM_ENDS

    def num_block_params(self) -> int:
        """Parameters of one block."""
        d, heads = self.embed_dim, self.num_heads * self.head_dim
        qkv = (d + 1) * (heads + 2 * self.num_kv_heads * self.head_dim)
        return qkv + heads * d + 3 * d * self.mlp_dim + 2 * d

    def num_params(self) -> int:
        """Unique parameters, the text embedding included."""
        d, v = self.embed_dim, self.speech_vocab_size
        tables = d * (self.text_vocab_size + v + NUM_SPECIAL)
        return tables + self.num_layers * self.num_block_params() + d + v * (d + 1)

    def flops_per_token(self, context: int) -> int:
        """Floating-point operations of the forward pass at one position that sees `context`.

        A multiplication and an addition count as two; look-ups, norms and biases as none. A
        training step costs three times as much.
        """
        d, heads = self.embed_dim, self.num_heads * self.head_dim
        block = d * (2 * heads + 2 * self.num_kv_heads * self.head_dim + 3 * self.mlp_dim)
        attention = 2 * heads * context
        return 2 * (self.num_layers * (block + attention) + d * self.speech_vocab_size)


class TextSpeechLM(nn.Module):
    """Embeds a layout, runs the decoder, predicts speech ids."""

    config: TextSpeechLMConfig

    def setup(self) -> None:
        c = self.config
        self.text_embedding = Embed(c.text_vocab_size, c.embed_dim)
        self.special_embedding = Embed(NUM_SPECIAL, c.embed_dim, (None, "embed"))
        self.speech_embedding = Embed(c.speech_vocab_size, c.embed_dim)
        self.backbone = Transformer(c)
        self.head = Dense(c.speech_vocab_size, ("embed", "vocab"), compute=c.compute)

    def __call__(self, layout: Layout, span: Span | None = None) -> jax.Array:
        """Returns logits [B, L, codebook_size + 3] float32 for every position of the layout."""
        return self.head(self.hidden(layout, span))

    def hidden(self, layout: Layout, span: Span | None = None) -> jax.Array:
        """Returns [B, L, D] float32 after the final norm; `span` overrides lengths (packing)."""
        span = Span(lengths=layout.lengths) if span is None else span
        return self.backbone(self._embed(layout.ids, layout.kinds), span)

    def init_state(self, batch: int, max_length: int) -> Any:
        """Returns empty caches for `max_length` positions."""
        return self.backbone.init_state(batch, max_length)

    def step(
        self, ids: jax.Array, kinds: jax.Array, lengths: jax.Array, state: Any
    ) -> tuple[jax.Array, Any]:
        """Reads the next positions of each row.

        Args:
          ids: [B, T] int32.
          kinds: [B, T] int32 table of each id, see `ops.interleave`.
          lengths: [B] int32, valid among the T; the rest is padding and leaves no trace.
          state: from `init_state` or the previous step; each row stands at its own position.

        Returns:
          logits: [B, T, codebook_size + 3] float32.
          state: advanced by `lengths`.
        """
        x, state = self.backbone.step(self._embed(ids, kinds), state, Span(lengths=lengths))
        return self.head(x), state

    def predict_next(
        self, ids: jax.Array, kinds: jax.Array, lengths: jax.Array, state: Any
    ) -> tuple[jax.Array, Any]:
        """Like `step`, but predicts only after the last valid position: [B, codebook_size + 3]."""
        x, state = self.backbone.step(self._embed(ids, kinds), state, Span(lengths=lengths))
        return self._after_last(x, lengths), state

    def prefill(
        self, ids: jax.Array, kinds: jax.Array, lengths: jax.Array
    ) -> tuple[jax.Array, Any]:
        """Like `predict_next` from an empty state of T positions, by the kernel of the config."""
        x, state = self.backbone.prefill(self._embed(ids, kinds), Span(lengths=lengths))
        return self._after_last(x, lengths), state

    def _after_last(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        """[B, T, D] -> logits [B, codebook_size + 3] after the last valid position."""
        last = jnp.maximum(lengths - 1, 0)[:, None, None]
        return self.head(jnp.take_along_axis(x, last, axis=1))[:, 0]

    def _embed(self, ids: jax.Array, kinds: jax.Array) -> jax.Array:
        """[B, T] ids of mixed kinds -> [B, T, D]."""
        x: Any = jnp.float32(PADDING_VALUE)
        tables = {
            interleave.SPECIAL: self.special_embedding,
            interleave.TEXT: self.text_embedding,
            interleave.SPEECH: self.speech_embedding,
        }
        for kind, table in tables.items():
            here = kinds == kind
            x = jnp.where(here[..., None], table(jnp.where(here, ids, 0)), x)
        return x


def init_params(config: TextSpeechLMConfig, key: jax.Array) -> Any:
    """Returns a fresh parameter tree, unboxed."""
    return nn.meta.unbox(init_boxed(config, key))


def init_boxed(config: TextSpeechLMConfig, key: jax.Array) -> Any:
    """Returns a fresh parameter tree whose leaves carry their logical axis names."""
    one = jnp.zeros((1, 1), jnp.int32)
    layout = Layout(one, one, one, jnp.ones((1,), jnp.int32))
    config = dataclasses.replace(config, attention="whole")  # it has no parameters of its own
    return TextSpeechLM(config).init(key, layout)["params"]


def lay_out(
    config: TextSpeechLMConfig,
    text: jax.Array,
    num_text: jax.Array,
    speech: jax.Array,
    num_speech: jax.Array,
    **options: Any,
) -> Layout:
    """`ops.interleave.interleave` with the ids and the ratio of `config`."""
    options |= {"codebook_size": config.codebook_size, "ratio": config.mix_ratio}
    return interleave.interleave(text, num_text, speech, num_speech, **options)


def lengthen(state: Any, max_length: int) -> Any:
    """Returns the state with room for `max_length` positions."""
    return transformer.lengthen(state, max_length)
