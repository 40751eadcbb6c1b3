"""A plain PyTorch training loop to hold ours against: transformers' Qwen2, padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cosyjax.convert.reference import Reference, qwen2_sizes

NAME = "transformers Qwen2, padded"
IGNORED = -100


def qwen2_training(config: Any, lengths: Sequence[int], tokens_per_batch: int) -> Reference:
    """AdamW steps of a Qwen2 of the same size over sequences of these lengths, float32.

    As in the official data pipeline, sequences are sorted by length and a batch holds as many as
    its budget of padded tokens allows. One call goes over all of them once.

    Args:
      config: a TextSpeechLMConfig; tables and head have its sizes.
      lengths: of the sequences.
      tokens_per_batch: rows times the longest row, at most.
    """
    try:
        import torch
        from transformers import Qwen2Config, Qwen2Model
    except ImportError as error:
        return Reference(NAME, None, f"not installed: {error.name}")
    torch.manual_seed(0)
    sizes = Qwen2Config(**qwen2_sizes(config), vocab_size=config.speech_vocab_size)
    model = Qwen2Model(sizes).train()
    head = torch.nn.Linear(config.embed_dim, config.speech_vocab_size)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-4)
    batches = [_batch(torch, rows, config) for rows in _cut(sorted(lengths), tokens_per_batch)]

    def run() -> None:
        for ids, mask, targets in batches:
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
            logits = head(hidden).flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return Reference(NAME, run)


def _cut(lengths: list[int], budget: int) -> list[list[int]]:
    batches: list[list[int]] = [[]]
    for length in lengths:  # rising, so the newest is the longest
        if batches[-1] and length * (len(batches[-1]) + 1) > budget:
            batches.append([])
        batches[-1].append(length)
    return batches


def _batch(torch: Any, lengths: list[int], config: Any) -> tuple[Any, Any, Any]:
    longest = max(lengths)
    ids = torch.randint(0, config.codebook_size, (len(lengths), longest))
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    return ids, mask.long(), torch.where(mask, ids.roll(-1, 1), IGNORED)
