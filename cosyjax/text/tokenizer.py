"""Text to ids: Qwen2's byte-level BPE with the special tokens of CosyVoice 2.

CosyVoice 2 (arXiv 2412.10117, section 2.1) feeds raw text through BPE, without phonemes. The
special tokens take the ids right after the base's, 151646 to 151662 on the full vocabulary.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from cosyjax.errors import InputError

BASE_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # 151643 to 151645 in full
END_OF_PROMPT = "<|endofprompt|>"
SPECIAL_TOKENS = (
    END_OF_PROMPT,
    "[breath]",
    "<strong>",
    "</strong>",
    "[noise]",
    "[laughter]",
    "[cough]",
    "[clucking]",
    "[accent]",
    "[quick_breath]",
    "<laughter>",
    "</laughter>",
    "[hissing]",
    "[sigh]",
    "[vocalized-noise]",
    "[lipsmack]",
    "[mn]",
)

# Qwen2 cuts text into words before merging bytes: contractions, letters, single digits, marks.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHINESE_OR_REST = re.compile("[\u4e00-\u9fff]|[^\u4e00-\u9fff]+")
_TWO_CHINESE = re.compile("[\u4e00-\u9fff]{2}")


class TextTokenizer:
    """Encodes text without begin or end marks; special tokens in the text become their ids.

    Differs: `split_chinese_tokens` encodes each character by itself where one token would hold
    several Chinese characters. The paper describes this; the official code does not do it.
    """

    def __init__(self, base: Tokenizer, *, split_chinese_tokens: bool = False):
        """Registers the special tokens on `base`, a Qwen2 tokenizer, which is kept and changed.

        Raises:
          InputError: `base` has added tokens of its own, as Qwen2.5 has at these very ids.
        """
        _check_added(base)
        base.add_special_tokens([_special(token) for token in BASE_TOKENS])
        base.add_special_tokens([_special(token) for token in SPECIAL_TOKENS])
        base.no_padding()
        base.no_truncation()
        self._tokenizer = base
        self.split_chinese_tokens = split_chinese_tokens
        self._parts = functools.cache(self._split_token)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included; the embedding table may have more rows."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def special_ids(self) -> dict[str, int]:
        """{special token: id}, the base's own three included."""
        vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        return {token: vocab[token] for token in BASE_TOKENS + SPECIAL_TOKENS}

    def encode(self, text: str) -> list[int]:
        """Turns text into ids."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not self.split_chinese_tokens:
            return ids
        return [part for token in ids for part in self._parts(token)]

    def decode(self, ids: list[int]) -> str:
        """Turns ids into text, without the special tokens."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def _split_token(self, token: int) -> tuple[int, ...]:
        text = self._tokenizer.decode([token])
        if not _TWO_CHINESE.search(text):
            return (token,)
        pieces = _CHINESE_OR_REST.findall(text)
        encoded = self._tokenizer.encode_batch(pieces, add_special_tokens=False)
        return tuple(index for piece in encoded for index in piece.ids)

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json`, the files hub users expect."""
        folder.mkdir(parents=True, exist_ok=True)
        self._tokenizer.save(str(folder / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": BASE_TOKENS[0],
            "pad_token": BASE_TOKENS[0],
            "additional_special_tokens": list(SPECIAL_TOKENS),
            "clean_up_tokenization_spaces": False,
        }
        _write_json(folder / "tokenizer_config.json", settings)

    def save_base(self, folder: Path) -> None:
        """Writes `vocab.json`, `merges.txt` and settings as Qwen2 ships them, without ours."""
        folder.mkdir(parents=True, exist_ok=True)
        self._tokenizer.model.save(str(folder))
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        added = {
            str(self.special_ids[token]): {"content": token, "special": True} | flags
            for token in BASE_TOKENS
        }
        settings = {
            "add_prefix_space": False,
            "added_tokens_decoder": added,
            "additional_special_tokens": list(BASE_TOKENS[1:]),
            "bos_token": None,
            "eos_token": BASE_TOKENS[0],
            "errors": "replace",
            "model_max_length": 32768,
            "pad_token": BASE_TOKENS[0],
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        }
        _write_json(folder / "tokenizer_config.json", settings)


def load_tokenizer(folder: Path, *, split_chinese_tokens: bool = False) -> TextTokenizer:
    """Reads a folder with `tokenizer.json`, or with `vocab.json` and `merges.txt`.

    Raises:
      InputError: files are missing or unreadable, or the base is not Qwen2's tokenizer.
    """
    whole, vocab, merges = (folder / n for n in ("tokenizer.json", "vocab.json", "merges.txt"))
    try:
        if whole.exists():
            base = Tokenizer.from_file(str(whole))
        elif vocab.exists() and merges.exists():
            base = _from_vocab(vocab, merges)
        else:
            raise InputError(
                f"{folder}: no tokenizer there; needs tokenizer.json, or vocab.json and merges.txt"
            )
    except InputError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise InputError(f"{folder}: the tokenizer files cannot be read: {error}") from error
    if not isinstance(base.model, models.BPE):
        raise InputError(
            f"{folder}: a {type(base.model).__name__} tokenizer; Qwen2's BPE is needed"
        )
    _check_settings(folder / "tokenizer_config.json")
    return TextTokenizer(base, split_chinese_tokens=split_chinese_tokens)


def _from_vocab(vocab: Path, merges: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)


def _check_added(base: Tokenizer) -> None:
    added = base.get_added_tokens_decoder()
    _refuse_foreign({index: str(token.content) for index, token in added.items()})


def _check_settings(path: Path) -> None:
    """Beside `vocab.json` the added tokens stand in this file only."""
    if not path.exists():
        return
    try:
        added: dict[str, Any] = json.loads(path.read_text()).get("added_tokens_decoder", {})
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not readable as JSON: {error}") from error
    _refuse_foreign({int(index): str(token["content"]) for index, token in added.items()})


def _refuse_foreign(added: dict[int, str]) -> None:
    foreign = {i: t for i, t in added.items() if t not in BASE_TOKENS + SPECIAL_TOKENS}
    if foreign:
        index, token = min(foreign.items())
        raise InputError(
            f"the tokenizer has {len(added)} added tokens, among them {token!r}={index}: a Qwen2.5 "
            "or other base, whose ids clash with CosyVoice 2's special tokens; Qwen2's tokenizer "
            f"is needed, with {', '.join(BASE_TOKENS)} only"
        )
    ours = [added[index] for index in sorted(added) if added[index] in SPECIAL_TOKENS]
    if ours != list(SPECIAL_TOKENS[: len(ours)]):
        raise InputError(
            f"the tokenizer's special tokens are in another order ({', '.join(ours[:3])}, ...); "
            f"CosyVoice 2 has {', '.join(SPECIAL_TOKENS[:3])}, ..."
        )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
