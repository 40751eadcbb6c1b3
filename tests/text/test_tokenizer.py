"""The tokenizer: special ids, Qwen2's rules, refusal of other bases, the way to disk and back."""

import json

import pytest

from cosyjax.errors import InputError
from cosyjax.text.tokenizer import BASE_TOKENS, SPECIAL_TOKENS, TextTokenizer, load_tokenizer
from tests.tools.toy_text import QWEN2_BASE_SIZE, write_toy_tokenizer

OFFICIAL_IDS = {
    "<|endoftext|>": 151643,
    "<|endofprompt|>": 151646,
    "[breath]": 151647,
    "</strong>": 151649,
    "[cough]": 151652,
    "<laughter>": 151656,
    "[mn]": 151662,
}
TEXTS = (
    "hello world",
    "It's 42,000 tests!! \r\n\n next   line  ",
    "你好世界<|endofprompt|>今天 [laughter] 天气<strong>很好</strong>。",
    "  [breath]x[BREATH] <|im_start|>",
    "cafe\u0301 ½ ٣ 🎉",
    "I'LL 'D we've",
    "",
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    write_toy_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(toy) -> TextTokenizer:
    return load_tokenizer(toy)


def test_special_tokens_follow_the_full_qwen2_vocabulary(tmp_path):
    write_toy_tokenizer(tmp_path, QWEN2_BASE_SIZE)
    ids = load_tokenizer(tmp_path).special_ids
    assert {token: ids[token] for token in OFFICIAL_IDS} == OFFICIAL_IDS
    assert sorted(ids.values()) == list(range(151643, 151663))


def test_special_tokens_follow_a_toy_vocabulary(toy, tokenizer):
    base = len(json.loads((toy / "vocab.json").read_text()))
    expected = range(base, base + len(BASE_TOKENS) + len(SPECIAL_TOKENS))
    assert list(tokenizer.special_ids.values()) == list(expected)
    assert tokenizer.vocab_size == expected.stop


def test_a_special_token_leaves_its_neighbours_alone(tokenizer):
    space = tokenizer.encode(" ")
    tag = tokenizer.special_ids["[breath]"]
    assert tokenizer.encode(" [breath] ") == space + [tag] + space
    assert tag not in tokenizer.encode("[BREATH]")


def test_digits_stand_alone(tokenizer):
    assert len(tokenizer.encode("2024")) == 4


def test_composed_and_decomposed_letters_are_the_same(tokenizer):
    assert tokenizer.encode("e\u0301") == tokenizer.encode("é")


@pytest.mark.parametrize("text", TEXTS)
def test_plain_text_survives_the_round_trip(tokenizer, text):
    plain = text.replace("e\u0301", "é")
    for special in SPECIAL_TOKENS + BASE_TOKENS:
        plain = plain.replace(special, "")
    assert tokenizer.decode(tokenizer.encode(text)) == plain


def test_ids_equal_those_of_transformers(toy, tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save_base(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    theirs.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    assert [tokenizer.encode(text) for text in TEXTS] == [theirs(t)["input_ids"] for t in TEXTS]


def test_several_chinese_characters_in_one_token_can_be_split(toy, tokenizer):
    split = load_tokenizer(toy, split_chinese_tokens=True)
    text = "你好世界<|endofprompt|>hello"
    assert len(split.encode("你好")) > len(tokenizer.encode("你好")) == 1
    assert split.decode(split.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    assert split.encode("hello world") == tokenizer.encode("hello world")


@pytest.mark.parametrize("save", ["save", "save_base"])
def test_a_saved_tokenizer_gives_the_same_ids(tokenizer, tmp_path, save):
    getattr(tokenizer, save)(tmp_path)
    again = load_tokenizer(tmp_path)
    assert [again.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_the_base_files_come_back_bit_equal(toy, tokenizer, tmp_path):
    tokenizer.save_base(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / name).read_bytes() == (toy / name).read_bytes()


def test_a_qwen25_base_is_refused(toy, tmp_path):
    write_toy_tokenizer(tmp_path)
    added = {"500": {"content": "<|endoftext|>"}, "503": {"content": "<|object_ref_start|>"}}
    settings = json.dumps({"added_tokens_decoder": added})
    (tmp_path / "tokenizer_config.json").write_text(settings)
    with pytest.raises(InputError, match="object_ref_start.*Qwen2.5"):
        load_tokenizer(tmp_path)


def test_special_tokens_in_another_order_are_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    swapped = path.read_text().replace('"[breath]"', '"#"').replace('"<strong>"', '"[breath]"')
    path.write_text(swapped.replace('"#"', '"<strong>"'))
    with pytest.raises(InputError, match="another order"):
        load_tokenizer(tmp_path)


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(InputError, match="no tokenizer there"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        load_tokenizer(tmp_path)
