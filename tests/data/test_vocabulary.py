"""A vocabulary trained on transcripts is read like Qwen2's."""

import pytest

from cosyjax.data import vocabulary
from cosyjax.errors import InputError
from cosyjax.text.tokenizer import BASE_TOKENS, SPECIAL_TOKENS, load_tokenizer

TEXTS = ["the cat sat on the mat", "the dog sat, the cat ran [laughter]", "猫が座った", "  "] * 3


def test_text_of_any_script_comes_back_from_the_ids(tmp_path):
    tokenizer = vocabulary.train_tokenizer(TEXTS, 300, tmp_path / "t")
    for text in ("the cat ran", "Ünseen wörds 12", "猫が座った"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("the cat")) == 2


def test_the_vocabulary_has_the_size_asked_for_and_its_special_tokens_come_last(tmp_path):
    tokenizer = vocabulary.train_tokenizer(TEXTS, 300, tmp_path / "t")
    assert tokenizer.vocab_size == 300
    wanted = range(300 - len(BASE_TOKENS + SPECIAL_TOKENS), 300)
    assert [tokenizer.special_ids[token] for token in BASE_TOKENS + SPECIAL_TOKENS] == list(wanted)
    assert tokenizer.encode("[laughter]") == [tokenizer.special_ids["[laughter]"]]


def test_the_same_transcripts_give_the_same_folder_and_loading_it_the_same_ids(tmp_path):
    made = [vocabulary.train_tokenizer(TEXTS, 300, tmp_path / name) for name in "ab"]
    one, other = ((tmp_path / name / "tokenizer.json").read_bytes() for name in "ab")
    assert one == other
    text = TEXTS[1]
    assert load_tokenizer(tmp_path / "a").encode(text) == made[0].encode(text)


@pytest.mark.parametrize(
    "texts, size, message", [(TEXTS, 275, "at least 276"), (["  "], 300, "no t")]
)
def test_too_small_a_vocabulary_and_no_text_are_refused(tmp_path, texts, size, message):
    with pytest.raises(InputError, match=message):
        vocabulary.train_tokenizer(texts, size, tmp_path / "t")
    assert not (tmp_path / "t").exists()
