"""Trains a text tokenizer of one's own: byte-level BPE on transcripts, in the form of Qwen2's."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from cosyjax.errors import InputError
from cosyjax.io.atomic import atomic_folder
from cosyjax.text.tokenizer import BASE_TOKENS, SPECIAL_TOKENS, TextTokenizer, load_tokenizer

NUM_BYTES = 256
SMALLEST = NUM_BYTES + len(BASE_TOKENS) + len(SPECIAL_TOKENS)


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, folder: Path | str, *, force: bool = False
) -> TextTokenizer:
    """Learns a vocabulary and saves it as a tokenizer folder.

    Args:
      texts: transcripts; the same texts in the same order give the same tokenizer.
      vocab_size: ids, special tokens included. Few texts may have fewer pairs to merge.
      folder: to be written; `load_tokenizer` reads it.
      force: replace a folder that is there.

    Raises:
      InputError: no text, too small a vocabulary, or a folder that is there.
    """
    if vocab_size < SMALLEST:
        raise InputError(
            f"vocab_size={vocab_size}; at least {SMALLEST} are needed: {NUM_BYTES} bytes and "
            f"{SMALLEST - NUM_BYTES} special tokens"
        )
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise InputError("no transcript to learn a vocabulary from")
    learnt = _learn(texts, vocab_size - SMALLEST + NUM_BYTES)
    with atomic_folder(Path(folder), force=force) as partial:
        learnt.save(partial)
    return load_tokenizer(Path(folder))


def _learn(texts: list[str], num_merged: int) -> TextTokenizer:
    """Trains behind the normalizer and the word splitter that the tokenizer will have."""
    trainer = trainers.BpeTrainer(
        vocab_size=num_merged,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models.BPE(vocab={}, merges=[]).save(name)
        load_tokenizer(folder).save(folder)  # Qwen2's pipeline around an empty vocabulary
        base = Tokenizer.from_file(str(folder / "tokenizer.json"))
        special = re.compile("|".join(map(re.escape, BASE_TOKENS + SPECIAL_TOKENS)))
        base.train_from_iterator((special.sub(" ", text) for text in texts), trainer)
        base.model.save(name)
        (folder / "tokenizer.json").unlink()
        return load_tokenizer(folder)
