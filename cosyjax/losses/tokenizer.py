"""Training the speech tokenizer: recognition, the quantizer's own losses, use of the codebook."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax

from cosyjax.errors import InputError
from cosyjax.ops import product

DB_PER_UNIT = 40.0  # of the log-mel of Whisper: log10 of a power, divided by 4


def asr_loss(
    logits: jax.Array, text_tokens: jax.Array, lengths: jax.Array, end_token: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean cross entropy over the text tokens and the end of each row.

    CosyVoice 2 (arXiv 2412.10117) section 2.2: the tokens are learnt by predicting the text.

    Args:
      logits: [B, S + 1, V]; entry i predicts text token i, entry `lengths` the end.
      text_tokens: [B, S] int32; what lies beyond `lengths` does not matter.
      lengths: [B] valid text tokens.
      end_token: the class that follows the last text token.

    Returns:
      loss: scalar float32, sum over valid / count valid; 0 for an empty batch.
      metrics: "num_targets" and "accuracy" over valid targets.
    """
    if logits.shape[1] != text_tokens.shape[1] + 1:
        raise InputError(
            f"logits for {logits.shape[1]} positions do not fit {text_tokens.shape[1]} text tokens "
            "and an end"
        )
    positions = jnp.arange(logits.shape[1])
    valid = positions <= lengths[:, None]
    padded = jnp.pad(text_tokens, ((0, 0), (0, 1)))
    targets = jnp.where(positions < lengths[:, None], padded, end_token)
    log_probs = jax.nn.log_softmax(jnp.where(valid[..., None], logits, 0.0).astype(jnp.float32))
    picked = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
    count = jnp.maximum(jnp.sum(valid), 1)
    hits = jnp.sum(valid & (jnp.argmax(log_probs, axis=-1) == targets))
    metrics = {"num_targets": jnp.sum(valid), "accuracy": hits / count}
    return -jnp.sum(jnp.where(valid, picked, 0.0)) / count, metrics


def ctc_loss(
    logits: jax.Array,
    mask: jax.Array,
    text_tokens: jax.Array,
    lengths: jax.Array,
    blank: int,
) -> tuple[jax.Array, jax.Array]:
    """Connectionist temporal classification: the text without saying where it is spoken.

    Graves et al. 2006, "Connectionist temporal classification", Eq. 8.

    Args:
      logits: [B, T, V]; what lies outside the mask does not matter.
      mask: [B, T] True = valid, at the front of each row.
      text_tokens: [B, S] int32, never `blank`; what lies beyond `lengths` does not matter.
      lengths: [B] valid text tokens; a row of 0 or less counts nothing.
      blank: the class that says nothing.

    Returns:
      loss: scalar float32, nats a text token over the rows whose text fits into their speech.
      fits: [B] bool, which rows those are: a text token needs an entry, and one more after itself.
    """
    valid = jnp.arange(text_tokens.shape[1]) < lengths[:, None]
    text = jnp.where(valid, text_tokens, 0)
    repeats = jnp.sum((text[:, 1:] == text[:, :-1]) & valid[:, 1:], axis=1)
    fits = (lengths > 0) & (lengths + repeats <= jnp.sum(mask, axis=1))
    logits = jnp.where(mask[..., None], logits, 0.0).astype(jnp.float32)
    outside = lambda inside: 1.0 - inside.astype(jnp.float32)
    costs = optax.ctc_loss(logits, outside(mask), text, outside(valid), blank_id=blank)
    count = jnp.maximum(jnp.sum(jnp.where(fits, lengths, 0)), 1)
    return jnp.sum(jnp.where(fits, costs, 0.0)) / count, fits


def ctc_edits(
    logits: jax.Array,
    mask: jax.Array,
    text_tokens: jax.Array,
    lengths: jax.Array,
    blank: int,
) -> jax.Array:
    """Greedy decoding against the text: the likeliest class of each entry, repeats joined.

    Args: see `ctc_loss`.

    Returns:
      [2] int32: insertions, deletions and substitutions, and the text tokens that they are of.
      Sums of several batches may be added; the ratio is the recogniser's error rate.
    """
    best = jnp.argmax(jnp.where(mask[..., None], logits, 0.0), axis=-1)
    before = jnp.pad(best, ((0, 0), (1, 0)), constant_values=blank)[:, :-1]
    said = mask & (best != blank) & (best != before)
    lengths = jnp.maximum(lengths, 0)
    edits = jax.vmap(_edits)(best, said, text_tokens, lengths)
    return jnp.stack([jnp.sum(jnp.where(lengths > 0, edits, 0)), jnp.sum(lengths)])


def _edits(tokens: jax.Array, said: jax.Array, text: jax.Array, length: jax.Array) -> jax.Array:
    """The Levenshtein distance of `tokens` where `said`, both [T], and the text [S] to `length`."""
    positions = jnp.arange(text.shape[0] + 1)

    def read(row: jax.Array, one: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        token, counts = one
        other = row[:-1] + (text != token)
        best = jnp.minimum(row + 1, jnp.concatenate([row[:1] + 1, other]))
        # Text that is missing costs one a place: a running minimum beside the diagonal.
        best = jax.lax.cummin(best - positions) + positions
        return jnp.where(counts, best, row), None

    return jax.lax.scan(read, positions, (tokens, said))[0][length]


def mel_error(predicted: jax.Array, mel: jax.Array, lengths: jax.Array) -> jax.Array:
    """How far predicted frames are from those that were heard.

    Args:
      predicted: [B, F', M], F' at least F.
      mel: [B, F, M] of `ops.mel.log_mel_128`.
      lengths: [B] valid frames.

    Returns:
      [2] float32: the sum over frames of their L1 distance a bin, in dB, and the frames. Sums of
      several batches may be added.
    """
    distance = jnp.mean(jnp.abs(predicted[:, : mel.shape[1]] - mel), axis=-1)
    valid = jnp.arange(mel.shape[1]) < lengths[:, None]
    total = DB_PER_UNIT * jnp.sum(jnp.where(valid, distance, 0.0))
    return jnp.stack([total, jnp.sum(valid).astype(jnp.float32)])


def count_tokens(tokens: jax.Array, mask: jax.Array, codebook_size: int) -> jax.Array:
    """tokens [B, T], mask [B, T] True = valid -> how often each occurs, [codebook_size] int32.

    Counts of several batches may be added before `codebook_metrics`.
    """
    # Padding is counted into an extra bin, which is dropped.
    bins = jnp.where(mask, tokens, codebook_size).reshape(-1)
    return jnp.bincount(bins, length=codebook_size + 1)[:codebook_size]


def codebook_metrics(counts: jax.Array) -> dict[str, jax.Array]:
    """Use and evenness of a codebook.

    Args:
      counts: [V] how often each token occurred.

    Returns:
      "used": the fraction of tokens that occurred, in [0, 1].
      "perplexity": exp of the entropy in nats: 1 where one token says all, V where all are even.
    """
    total = jnp.maximum(jnp.sum(counts), 1).astype(jnp.float32)
    share = counts.astype(jnp.float32) / total
    entropy = -jnp.sum(
        jnp.where(counts > 0, share * jnp.log(jnp.where(counts > 0, share, 1.0)), 0.0)
    )
    return {"used": jnp.mean(counts > 0), "perplexity": jnp.exp(entropy)}


def commitment_loss(
    features: jax.Array, chosen: jax.Array, mask: jax.Array, weight: float = 0.25
) -> jax.Array:
    """Pulls the vectors of a table to the features they stand for, and less so the other way.

    van den Oord et al. 2017 (arXiv:1711.00937) Eq. 3, without moving averages.

    Args:
      features: [B, T, D] before the choice.
      chosen: [B, T, D] rows of the table, with gradients.
      mask: [B, T] True = valid.
      weight: of the pull on the features.

    Returns:
      scalar: mean square distance over valid entries, times 1 + weight.
    """
    features = jnp.where(mask[..., None], features, 0.0)
    chosen = jnp.where(mask[..., None], chosen, 0.0)
    count = jnp.maximum(jnp.sum(mask), 1) * features.shape[-1]
    table = jnp.sum(jnp.square(jax.lax.stop_gradient(features) - chosen))
    encoder = jnp.sum(jnp.square(features - jax.lax.stop_gradient(chosen)))
    return (table + weight * encoder) / count


def draw_entries(key: jax.Array, x: jax.Array, mask: jax.Array, count: int) -> jax.Array:
    """x [B, T, D], mask [B, T] True = valid -> [count, D] valid entries, drawn with repetition."""
    logits = jnp.where(mask.reshape(-1), 0.0, -1e30)
    return x.reshape(-1, x.shape[-1])[jax.random.categorical(key, logits, shape=(count,))]


def balance_loss(
    bounded: jax.Array, mask: jax.Array, num_levels: int, temperature: float = 0.25
) -> jax.Array:
    """How far the levels of FSQ are from even and independent, in each two dimensions.

    Differs: neither the paper nor the released model has it. With little data it keeps dimensions
    from dying and from saying the same.

    Args:
      bounded: [B, T, Q] in (-K, K), before rounding; Q at least 2.
      mask: [B, T] True = valid.
      num_levels: 2K + 1.
      temperature: of the soft choice of a level that carries the gradient, in squared levels.

    Returns:
      scalar in [0, 1]: 1 minus the mean entropy of two dimensions' levels in this batch, as a part
      of the largest possible. The counts are those of the rounded codes.
    """
    dims = bounded.shape[-1]
    if dims < 2:
        raise InputError(f"balance_loss needs at least 2 code dimensions, got {dims}")
    x = jnp.where(mask[..., None], bounded.astype(jnp.float32), 0.0)[..., None]
    levels = jnp.arange(num_levels, dtype=jnp.float32) - num_levels // 2
    soft = jax.nn.softmax(-jnp.square(x - levels) / temperature)
    hard = jax.nn.one_hot(jnp.argmax(soft, axis=-1), num_levels)
    choice = jax.lax.stop_gradient(hard - soft) + soft
    choice = jnp.where(mask[..., None, None], choice, 0.0).reshape(-1, dims * num_levels)
    joint = product.dense(choice.T, choice) / jnp.maximum(jnp.sum(mask), 1)
    joint = joint.reshape(dims, num_levels, dims, num_levels)
    # An empty cell would pull with infinite strength.
    entropy = -jnp.sum(joint * jnp.log(joint + 1e-4), axis=(1, 3))
    others = ~jnp.eye(dims, dtype=bool)
    mean = jnp.sum(jnp.where(others, entropy, 0.0)) / (dims * (dims - 1))
    return 1.0 - mean / (2.0 * math.log(num_levels))
