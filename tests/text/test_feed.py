"""Text that arrives bit by bit gives the tokens of the text at once."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from cosyjax.errors import InputError
from cosyjax.text.feed import Fed, SegmentRule, SentenceFeed, WordFeed
from cosyjax.text.tokenizer import TextTokenizer, load_tokenizer
from tests.tools.toy_text import write_toy_tokenizer

TEXTS = (
    "hello world, hello  hello",
    'He said: "Stop!" Then he left. It cost 12.50 dollars, don\'t you think?  Really.',
    "你好世界，今天天气很好！你好。 hello",
    "it's [laughter] a <strong>hello</strong> world [breath]! a < b, c[3] > d",
    "It's 42,000 tests!! next   line\nand\n\nanother one. cafe\u0301 ½ ٣ 🎉",
    "I'LL 'D we've <|endofprompt|> hello",
)
ENDLESS = SegmentRule(10_000, 10_000)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("toy")
    write_toy_tokenizer(folder)
    return load_tokenizer(folder)


def feed(feeder: WordFeed | SentenceFeed, parts: Iterable[str]) -> list[Fed]:
    given = [fed for part in parts for fed in feeder.push(part)]
    return given + list(feeder.close())


def joined(given: list[Fed]) -> list[int]:
    return [token for fed in given for token in fed.tokens]


@pytest.mark.parametrize("text", TEXTS)
def test_words_given_one_by_one_are_the_tokens_of_the_text(tokenizer, text) -> None:
    given = feed(WordFeed(tokenizer.encode, ENDLESS), [text])
    assert joined(given) == tokenizer.encode(text)
    assert len(given) > 2 and [fed.ends for fed in given] == [False] * (len(given) - 1) + [True]


@pytest.mark.parametrize("size", (1, 3, 7))
def test_how_a_text_is_cut_changes_nothing(tokenizer, size) -> None:
    text = " ".join(TEXTS)
    cut = [text[i : i + size] for i in range(0, len(text), size)]
    rule = SegmentRule(8, 20)
    whole = feed(WordFeed(tokenizer.encode, rule), [text])
    assert feed(WordFeed(tokenizer.encode, rule), cut) == whole
    assert sum(fed.ends for fed in whole) > 5
    sentences = feed(SentenceFeed(lambda sentence: [tokenizer.encode(sentence)]), [text])
    assert feed(SentenceFeed(lambda sentence: [tokenizer.encode(sentence)]), cut) == sentences
    assert len(sentences) > 5 and all(fed.ends for fed in sentences)


def test_a_word_is_given_before_the_one_after_it_is_known(tokenizer) -> None:
    feeder = WordFeed(tokenizer.encode)
    assert list(feeder.push("hel")) == [] and list(feeder.push("lo")) == []
    assert list(feeder.push(" ")) == [Fed(tuple(tokenizer.encode("hello")), False)]


def test_a_segment_ends_with_a_sentence_or_in_need_with_a_word(tokenizer) -> None:
    letters = lambda text: list(range(len(text)))
    rule = SegmentRule(shortest=6, longest=12)
    lengths = [0]
    for fed in feed(WordFeed(letters, rule), ["A b. Cd ef. Gh. abcdefg hijklmnop qrs."]):
        lengths[-1] += len(fed.tokens)
        lengths += [0] * fed.ends
    # "A b. Cd ef." (the first sentence is too short), "Gh. abcdefg hijklmnop", "qrs."
    assert lengths == [11, 21, 4, 0]


def test_empty_text_gives_nothing(tokenizer) -> None:
    for text in ("", "  \n "):
        assert feed(WordFeed(tokenizer.encode), [text]) == []
        assert feed(SentenceFeed(lambda sentence: [tokenizer.encode(sentence)]), [text]) == []


def test_a_rule_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="shortest=9, longest=5"):
        SegmentRule(9, 5)
