"""Pre-norm decoder blocks with RMSNorm and SwiGLU, and a stack of them (Qwen2, arXiv 2407.10671).

A stack is either unrolled (`layers_0`, `layers_1`, ...: the canonical tree, fastest to decode) or
scanned over parameters with a leading layer axis (`layers`: compile time flat in depth, for
training). `layers.stacking` turns one tree into the other.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax import sharding
from cosyjax.errors import InputError, nearest
from cosyjax.layers.attention import ATTENTIONS, GroupedQueryAttention, KVCache, Span
from cosyjax.layers.basic import Axes, Dense, RMSNorm
from cosyjax.layers.remat import check_policy, remat

MLP_RESULTS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a stack of blocks."""

    num_layers: int = 24  # blocks
    embed_dim: int = 896  # width of the residual stream
    num_heads: int = 14  # query heads
    num_kv_heads: int = 2  # key-value heads; divides num_heads
    head_dim: int = 64  # width of a head; even
    mlp_dim: int = 4864  # width of the gated MLP
    rope_theta: float = 1e6  # base of the rotary wavelengths
    norm_epsilon: float = 1e-6  # added to the mean square in RMSNorm
    compute: str = "float32"  # operand type of products, see ops.product
    fused: bool = False  # inference only: qkv in one kernel, gate and up in another
    join_qkv: bool = False  # training: queries, keys and values by one product, see layers.joined
    scan_layers: bool = False  # parameters stacked over layers, blocks run by a scan
    mlp_result: str = "float32"  # type in which the MLP keeps gate, up and their product
    attention: str = "whole"  # of calls without a cache, see layers.attention
    remat: str = "none"  # what the backward pass recomputes: none, dots (all but products), full

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads or self.head_dim % 2:
            raise InputError(
                f"num_heads={self.num_heads} must be a multiple of num_kv_heads="
                f"{self.num_kv_heads} and head_dim={self.head_dim} must be even"
            )
        if self.attention not in ATTENTIONS:
            raise InputError(f"attention={self.attention!r}; {nearest(self.attention, ATTENTIONS)}")
        if self.mlp_result not in MLP_RESULTS:
            raise InputError(
                f"mlp_result={self.mlp_result!r}; {nearest(self.mlp_result, MLP_RESULTS)}"
            )
        check_policy(self.remat)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)).

    `result` bfloat16 halves what a step takes to and from memory for its widest values.
    """

    mlp_dim: int
    compute: str = "float32"
    fused: bool = False
    result: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [B, T, D] -> [B, T, D]."""
        dense = lambda width, axes, name: Dense(
            width, axes, use_bias=False, compute=self.compute, result=self.result, name=name
        )
        if self.fused:
            both = dense(2 * self.mlp_dim, ("embed", "mlp"), "gate_up")(x)
            gate, up = both[..., : self.mlp_dim], both[..., self.mlp_dim :]
        else:
            gate = dense(self.mlp_dim, ("embed", "mlp"), "gate")(x)
            up = dense(self.mlp_dim, ("embed", "mlp"), "up")(x)
        gate, up = gate.astype(jnp.float32), up.astype(jnp.float32)
        mixed = (jax.nn.silu(gate) * up).astype(self.result)
        axes: Axes = ("mlp", "embed")
        down = Dense(x.shape[-1], axes, use_bias=False, compute=self.compute, name="down")
        return down(mixed)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    config: TransformerConfig

    def setup(self) -> None:
        c = self.config
        self.attention_norm = RMSNorm(c.norm_epsilon)
        self.attention = GroupedQueryAttention(
            c.num_heads,
            c.num_kv_heads,
            c.head_dim,
            features=c.embed_dim,
            rope_theta=c.rope_theta,
            compute=c.compute,
            fused=c.fused,
            attention=c.attention,
            join_qkv=c.join_qkv,
        )
        self.mlp_norm = RMSNorm(c.norm_epsilon)
        self.mlp = SwiGLU(c.mlp_dim, c.compute, c.fused, c.mlp_result)

    def init_state(self, batch: int, max_length: int) -> KVCache:
        """Returns an empty cache for `max_length` positions."""
        return self.attention.init_state(batch, max_length)

    def __call__(self, x: jax.Array, span: Span = Span()) -> jax.Array:
        """x: [B, T, D] -> [B, T, D]."""
        return self.advance(x, None, span)[0]

    def step(self, x: jax.Array, cache: KVCache, span: Span = Span()) -> tuple[jax.Array, Any]:
        """x: [B, T, D], the next positions -> (y, cache)."""
        return self.advance(x, cache, span)

    def advance(
        self, x: jax.Array, cache: KVCache | None, span: Span
    ) -> tuple[jax.Array, KVCache | None]:
        """Both of the above; see `GroupedQueryAttention.advance`."""
        # Without this the compiler may lay x out as a kernel is, and gather it for every product.
        x = sharding.keep_rows(x)
        y, cache = self.attention.advance(self.attention_norm(x), cache, span)
        x = sharding.keep_rows(x + y)
        return sharding.keep_rows(x + self.mlp(self.mlp_norm(x))), cache


class Transformer(nn.Module):
    """A stack of blocks and the final norm."""

    config: TransformerConfig

    def setup(self) -> None:
        c = self.config
        block = remat(Block, c.remat, ["advance"], scanned=c.scan_layers)
        if c.scan_layers:
            scanned = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(0, nn.broadcast),
                length=c.num_layers,
                metadata_params={nn.PARTITION_NAME: "layers"},
                methods=["advance"],
            )
            self.layers = scanned(c)
        else:
            self.layers = [block(c) for _ in range(c.num_layers)]
        self.norm = RMSNorm(c.norm_epsilon)

    def init_state(self, batch: int, max_length: int) -> Any:
        """Returns empty caches: a tuple of one per layer, or one stacked cache when scanned."""
        c = self.config
        make = lambda: KVCache.zeros(batch, c.num_kv_heads, max_length, c.head_dim)
        if not c.scan_layers:
            return tuple(make() for _ in range(c.num_layers))
        return jax.tree.map(lambda a: jax.numpy.stack([a] * c.num_layers), make())

    def __call__(self, x: jax.Array, span: Span = Span()) -> jax.Array:
        """x: [B, T, D] -> [B, T, D] after the final norm."""
        return self.norm(self._run(x, None, span)[0])

    def prefill(self, x: jax.Array, span: Span = Span()) -> tuple[jax.Array, Any]:
        """As `step` with empty caches of T positions, by the attention of a call without any."""
        x, caches = self._run(x, None, span.replace(keep=True))
        return self.norm(x), caches

    def step(self, x: jax.Array, caches: Any, span: Span = Span()) -> tuple[jax.Array, Any]:
        """x: [B, T, D], the next positions -> (y [B, T, D] after the final norm, caches)."""
        x, caches = self._run(x, caches, span)
        return self.norm(x), caches

    def _run(self, x: jax.Array, caches: Any, span: Span) -> tuple[jax.Array, Any]:
        if self.config.scan_layers:
            return self.layers.advance(x, caches, span)
        new = []
        for index, layer in enumerate(self.layers):
            x, cache = layer.advance(x, None if caches is None else caches[index], span)
            new.append(cache)
        return x, tuple(new) if caches is not None or span.keep else None


def position(caches: Any) -> jax.Array:
    """Returns [B] int32, how many valid positions the caches hold."""
    return caches[0].position if isinstance(caches, tuple) else caches.position[0]


def lengthen(caches: Any, max_length: int) -> Any:
    """Returns the caches with room for `max_length` positions."""
    grow = lambda cache: cache.lengthened(max_length)
    return jax.tree.map(grow, caches, is_leaf=lambda node: isinstance(node, KVCache))
