"""Training the speech tokenizer: recognition loss, and how much of the codebook is in use."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cosyjax.errors import InputError


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
