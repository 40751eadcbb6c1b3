"""A toy of Qwen2's tokenizer files: a few hundred merges, any number of ids."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

QWEN2_BASE_SIZE = 151_643  # ids before Qwen2's three added tokens
SENTENCES = (
    "hello world, this is the second test of the day and it's fine",
    "the weather is nice today. She said that they'll come at ten",
    "2024 2024 2024",  # merges of digits, which Qwen2 never gets to use
    "你好世界，今天天气很好。你好你好，我们今天去看看世界",
    "收到好友从远方寄来的生日礼物，那份意外的惊喜让我心中充满了快乐",
)


def write_toy_tokenizer(folder: Path, base_size: int | None = None) -> None:
    """Writes `vocab.json` and `merges.txt` as Qwen2 ships them.

    Args:
      folder: created if absent.
      base_size: ids before the added tokens, filled up with words no text can produce; None
        leaves the few hundred learnt ones.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 10, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.model.save(str(folder))
    vocab = json.loads((folder / "vocab.json").read_text())
    vocab |= {f"<filler {i}>": i for i in range(len(vocab), base_size or 0)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False, separators=(",", ":")))
