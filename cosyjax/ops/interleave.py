"""The one place that lays text and speech tokens out as a sequence of the language model.

CosyVoice 2 (arXiv 2412.10117), section 2.3. Training, decoding from a prompt and text-streaming
decoding all call `interleave`, so they cannot drift apart.

    unistream   sos, text 1..N, task, speech 1..M           targets from task on: speech, eos
    bistream    sos, [n text, m speech] * (N // n), rest of the text, task, rest of the speech

In a full block of the bistream layout the last text position predicts the first speech token and
the last speech position predicts `fill` ("I need more text"); `fill` itself is never an input.
The unistream layout is the bistream layout without full blocks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SPECIAL, TEXT, SPEECH, PADDING = 0, 1, 2, 3  # which table an id belongs to
SOS, TASK = 0, 1  # ids of kind SPECIAL
IGNORED = -1  # target of a position that is not learned
Array = jax.Array | np.ndarray


class Layout(NamedTuple):
    """A batch of sequences: `ids[b, l]` is a row of the table that `kinds[b, l]` names."""

    ids: jax.Array  # [B, L] int32
    kinds: jax.Array  # [B, L] int32, SPECIAL, TEXT, SPEECH or PADDING
    targets: jax.Array  # [B, L] int32 speech ids, IGNORED where nothing is learned
    lengths: jax.Array  # [B] int32, valid positions


def choose_bistream(
    draws: Array, num_text: Array, num_speech: Array, ratio: tuple[int, int] = (5, 15)
) -> Array:
    """Says which samples are laid out as bistream.

    Args:
      draws: [B] uniform in [0, 1), exactly one a sample, used or not.
      num_text: [B] text tokens.
      num_speech: [B] speech tokens.
      ratio: text and speech tokens of a block.

    Returns:
      [B] bool: the draw is below one half and the speech is long enough to fill every block.
    """
    long_enough = num_speech * ratio[0] > num_text * ratio[1]
    return (draws < 0.5) & long_enough


def interleave(
    text: Array,
    num_text: Array,
    speech: Array,
    num_speech: Array,
    bistream: Array | None = None,
    *,
    codebook_size: int,
    ratio: tuple[int, int] = (5, 15),
    with_targets: bool = True,
    xp: Any = jnp,
) -> Layout:
    """Lays out a batch.

    Args:
      text: [B, S] int32 text tokens, padded on the right.
      num_text: [B] int32 valid text tokens.
      speech: [B, T] int32 speech tokens (in decoding: the prompt's), padded on the right.
      num_speech: [B] int32 valid speech tokens.
      bistream: [B] bool, see `choose_bistream`; None is unistream throughout. Speech that ends
        inside a full block ends the sequence: a prompt whose block decoding continues.
      codebook_size: speech codes; eos is that id, fill two ids further.
      ratio: (n, m), text and speech tokens of a bistream block.
      with_targets: False for a prompt, which has no targets.
      xp: `jax.numpy`, or `numpy` for numpy arrays, which no length makes compile.

    Returns:
      A Layout of static length S + T + 2, padded on the right.
    """
    n, m = ratio
    num_blocks = 0 * num_text if bistream is None else (num_text // n) * bistream
    blocks_end = num_blocks * (n + m)
    q = xp.arange(text.shape[1] + speech.shape[1] + 2, dtype=xp.int32)[None] - 1  # sos is at -1
    in_blocks = q < blocks_end[:, None]
    block, offset = q // (n + m), q % (n + m)
    tail = q - blocks_end[:, None]  # position within what follows the full blocks
    rest = (num_text - n * num_blocks)[:, None]  # text tokens there; then task

    text_index = xp.where(in_blocks, block * n + offset, n * num_blocks[:, None] + tail)
    is_text = xp.where(in_blocks, offset < n, tail < rest) & (q >= 0)
    next_speech = xp.where(in_blocks, block * m + offset - n + 1, m * num_blocks[:, None])
    next_speech = next_speech + xp.where(in_blocks, 0, tail - rest)  # the one to be predicted
    is_task = ~in_blocks & (tail == rest)
    is_speech = ~is_text & ~is_task & (q >= 0) & (next_speech <= num_speech[:, None])

    lengths = _length(num_text, num_speech, num_blocks, ratio, xp)
    valid = (q + 1) < lengths[:, None]
    kinds = xp.where(is_text, TEXT, xp.where(is_speech, SPEECH, SPECIAL))
    kinds = xp.where(valid, kinds, PADDING)
    ids = xp.where(kinds == TEXT, _take(text, text_index, xp), xp.where(q < 0, SOS, TASK))
    ids = xp.where(kinds == SPEECH, _take(speech, next_speech - 1, xp), ids) * valid
    targets = xp.full_like(ids, IGNORED)
    if with_targets:
        first = xp.where(in_blocks, n - 1, rest)  # from here on a block predicts speech
        learned = valid & (q >= 0) & (xp.where(in_blocks, offset, tail) >= first)
        ended = xp.where(in_blocks, offset == n + m - 1, next_speech >= num_speech[:, None])
        end_id = xp.where(in_blocks, codebook_size + 2, codebook_size)
        targets = xp.where(ended, end_id, _take(speech, next_speech, xp))
        targets = xp.where(learned, targets, IGNORED)
    return Layout(*(xp.asarray(x, xp.int32) for x in (ids, kinds, targets, lengths)))


def _length(
    num_text: Array,
    num_speech: Array,
    num_blocks: Array,
    ratio: tuple[int, int],
    xp: Any,
) -> Array:
    """Valid positions; a sequence that ends inside a block has neither later text nor task."""
    n, m = ratio
    whole = num_text + num_speech + 2
    used = -(-num_speech // m)  # blocks that the speech reaches
    cut = 1 + used * n + num_speech
    return xp.where(num_speech < num_blocks * m, cut, whole)


def _take(tokens: Array, index: Array, xp: Any) -> Array:
    """tokens[b, index[b, l]], clipped; an empty table gives zeros."""
    if tokens.shape[1] == 0:
        return xp.zeros(index.shape, tokens.dtype)
    return xp.take_along_axis(tokens, xp.clip(index, 0, tokens.shape[1] - 1), axis=1)
