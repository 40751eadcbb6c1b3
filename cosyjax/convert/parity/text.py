"""Golden rows of the official text front end, string for string."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cosyjax.convert.parity.fixture import Check, Fixture
from cosyjax.text import normalize
from cosyjax.text.split import SplitRule, split_text

_HELPERS: dict[str, Callable[[str], Any]] = {
    "contains_chinese": normalize.contains_chinese,
    "corner_mark": normalize.replace_corner_marks,
    "remove_bracket": normalize.remove_brackets,
    "spell_out_number": normalize.spell_out_numbers,
    "is_only_punctuation": normalize.is_only_punctuation,
    "replace_blank": normalize.remove_blanks,
    "normalize_split0": normalize.normalize,
    "normalize_split1": lambda text: normalize.normalize_and_split(text, str.split),
}
_SPLIT = re.compile(r"split_(zh|en)_comma([01])")
_ERROR = "_error"


def text_frontend(fixture: Fixture) -> Iterator[Check]:
    """Every field of every row; the stand-in tokenizer of the golden rows counts words."""
    for index, row in enumerate(fixture.meta["rows"]):
        for field, expected in row.items():
            if field != "text":
                yield _check(f"row{index}.{field}", field, row["text"], expected)


def _check(tensor: str, field: str, text: str, expected: Any) -> Check:
    actual = _function(field.removesuffix(_ERROR))(text)
    if field.endswith(_ERROR):
        note = f"the official code raises {expected}; ours returns {_short(actual)}"
        return Check(tensor, None, None, skipped=note)
    return Check(tensor, _strings(actual), _strings(expected))


def _function(field: str) -> Callable[[str], Any]:
    split = _SPLIT.fullmatch(field)
    if split is None:
        return _HELPERS[field]
    language, rule = split[1], SplitRule(at_commas=split[2] == "1")
    return lambda text: split_text(text, str.split, language, rule)


def _strings(value: Any) -> np.ndarray:
    """Object arrays, because numpy's own strings drop trailing zero characters."""
    return np.asarray(value, dtype=bool if isinstance(value, bool) else object)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:40] + f"... ({len(text)} characters)"


FIXTURES = {"text_frontend": text_frontend}
