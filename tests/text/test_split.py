"""Sentences and pieces."""

from cosyjax.text.split import SplitRule, split_text


def test_nothing_gives_no_piece():
    assert split_text("", str.split) == []


def test_a_full_stop_is_added_where_none_is():
    assert split_text("hi", str.split, "en") == ["hi."]
    assert split_text("你好", str.split, "zh") == ["你好。"]


def test_no_character_between_marks_is_lost():
    text = "第一句话。" * 60
    assert "".join(split_text(text, str.split)) == text


def test_a_piece_is_emitted_once_it_is_long_enough():
    text = ("一" * 39 + "。") * 4
    assert [len(piece) for piece in split_text(text, str.split)] == [80, 80]
    text = ("一" * 49 + "。") * 2  # 100 > 80, but the piece so far is not above 60
    assert [len(piece) for piece in split_text(text, str.split)] == [100]


def test_a_short_rest_joins_the_piece_before():
    text = ("一" * 69 + "。") * 2
    assert [len(piece) for piece in split_text(text + "二" * 18 + "。", str.split)] == [70, 89]
    assert [len(piece) for piece in split_text(text + "二" * 19 + "。", str.split)] == [70, 70, 20]


def test_a_short_rest_alone_stays():
    assert split_text("短。", str.split) == ["短。"]


def test_length_is_in_tokens_unless_chinese():
    text = "one two three. " * 40
    pieces = split_text(text, str.split, "en", SplitRule(longest=9, shortest=5, merge=1))
    assert {len(piece.split()) for piece in pieces[:-1]} == {9}


def test_a_closing_quote_stays_with_its_sentence():
    rule = SplitRule(longest=4, shortest=2, merge=1)
    assert split_text("他说：“你好。”走。", str.split, "zh", rule)[1] == "“你好。”"


def test_a_quote_after_a_mark_that_ends_nothing_is_kept():
    assert split_text('."hi', str.split, "en") == ['"hi.']


def test_commas_split_on_demand():
    rule = SplitRule(longest=3, shortest=1, merge=1, at_commas=True)
    assert split_text("一二，三四", str.split, "zh", rule) == ["一二，", "三四。"]
