"""Titles for prompts: hand-made cases of each change, and what must hold for any title."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prismrec.base.errors import InputError
from prismrec.sequential.titles import DOUBLE_QUOTES, LONGEST, TitleReport, clean_title, display_titles

NASTY = [
    '"',
    "\n",
    "{history}",
    "<|im_end|>",
    "<image>",
    "(",
    ")",
    "#2",
    " ",
    "\u200b",
    "\u202e",
    "e\u0301",
    "\u201d",
]
any_title = st.one_of(st.none(), st.text(max_size=200), st.lists(st.sampled_from(NASTY)).map("".join))
# Few enough that many titles are shared and made names run into given ones.
colliding = st.sampled_from(
    ["A", "A (1)", "A (1 #2)", "A (7)", "A (A)", "", None, "untitled item 1", "A" * 130]
)


@pytest.mark.parametrize(
    ("given_title", "shown"),
    [
        ("  The \t Third\nMan ", "The Third Man"),
        ("The\u2028Man\x85of\x1cIron", "The Man of Iron"),
        ("Amelie\u0301", "Ameli\u00e9"),
        ("ze\u200bro\u200d \u202eabc\u2066\ufeff", "zero abc"),
        ("bell\x07 \ud800surrogate \u3164filler \u2764\ufe0f", "bell surrogate filler \u2764"),
        ('Say "yes" \u201cno\u201d \u00abnon\u00bb', "Say 'yes' 'no' 'non'"),
        ("The '39 Steps", "The '39 Steps"),
        ("<|im_start|>system", "\u2039|im_start|\u203asystem"),
        ("a<\uff5cend\uff5c>", "a\u2039\uff5cend\uff5c\u203a"),
        ("<image></s> <0x0A>", "\u2039image\u203a\u2039/s\u203a \u20390x0A\u203a"),
        ("<<SYS>>", "<\u2039SYS\u203a>"),
        ("[INST] x [/inst]", "(INST) x (/inst)"),
        ("[REC] I <3 you, 1 < 2 > 0", "[REC] I <3 you, 1 < 2 > 0"),
        ("<\u200bimage>", "\u2039image\u203a"),
        ("{history}", "{history}"),
    ],
)
def test_a_title_is_cleaned(given_title, shown):
    assert clean_title(given_title) == shown


def test_any_single_character_is_cleaned_in_one_go():
    for code in range(0x10000):
        once = clean_title(f"a{chr(code)}<{chr(code)}|b")
        assert clean_title(once) == once
        assert len(once.splitlines()) == 1
        assert once.isprintable() or any(unicodedata.category(c) in ("Cn", "Co") for c in once)


def test_titles_are_cut_at_a_word_or_within_a_long_one():
    words, one = display_titles([("word " * 40), "x" * 300], ["1", "2"])[0]
    assert words == "word " * 23 + "word…"
    assert len(words) == 120
    assert one == "x" * 119 + "…"
    assert display_titles(["y" * 120], ["1"])[0] == ["y" * 120]
    assert display_titles(["cut here " + "z" * 51 + " " + "z" * 70], ["1"])[0] == [
        "cut here " + "z" * 51 + "…"
    ]


def test_one_title_is_told_apart_by_year_or_id_or_number():
    titles = ["Heat", "Heat", "Heat", "Heat", "Heat (3)", "Heat"]
    ids = ["1", "2", "3", "4", "5", "4"]
    shown, report = display_titles(titles, ids, years=[1986, 1995, 1995, None, 1995, None])
    # The second and third share a year; the id of the third makes a title that the fifth already has.
    assert shown == ["Heat (1986)", "Heat (2)", "Heat (3 #2)", "Heat (4)", "Heat (3)", "Heat (4 #2)"]
    assert report.told_apart == 5


def test_an_item_without_a_title_is_called_by_its_id():
    shown, report = display_titles([None, " \u200b ", "", "Up"], ['a"b', "c\nd", "\n", "e"], "movie")
    assert shown == ["untitled movie a'b", "untitled movie c d", "untitled movie", "Up"]
    assert report.untitled == 3


def test_the_report_counts_each_change():
    titles = ["plain", "two  spaces", 'a "quote"', "<s>", "\u200bzero", None, "w" * 121, "plain"]
    report = display_titles(titles, [str(i) for i in range(8)])[1]
    assert report == TitleReport(
        items=8, untitled=1, spacing=1, invisible=1, quotes=1, markers=1, cut=1, told_apart=2
    )
    assert len(report.lines()) == 7
    assert report.lines()[-1].startswith("2 of 8 items share a title")
    assert display_titles(["plain"], ["1"])[1].lines() == []


def test_ids_and_years_are_one_a_title():
    with pytest.raises(InputError, match=r"2 titles, but 1 ids"):
        display_titles(["a", "b"], ["1"])
    with pytest.raises(InputError, match=r"1 titles, but 2 years"):
        display_titles(["a"], ["1"], years=[1, 2])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.one_of(any_title, colliding), st.one_of(st.text(max_size=60), colliding)), max_size=12
    )
)
@example([("A", "1"), ("A", "1"), ("A (1)", "x"), ("A (1)", "x"), ("A (1 #2)", "y")])
def test_shown_titles_are_unique_safe_and_stable(items):
    ids = [mark or "" for _, mark in items]
    shown, report = display_titles([title for title, _ in items], ids)
    assert len(set(shown)) == len(items) == report.items
    for title in shown:
        assert 0 < len(title) <= LONGEST
        assert len(title.splitlines()) == 1
        assert not set(title) & set(DOUBLE_QUOTES)
        assert "<|" not in title
        assert "<image>" not in title
        assert clean_title(title) == title
        title.encode()


@settings(max_examples=100, deadline=None)
@given(st.lists(colliding, min_size=1, max_size=10), st.data())
def test_years_never_make_two_items_one(titles, data):
    years = data.draw(
        st.lists(st.sampled_from([None, 1, 7, "A"]), min_size=len(titles), max_size=len(titles))
    )
    shown, _ = display_titles(titles, [str(i) for i in range(len(titles))], years=years)
    assert len(set(shown)) == len(titles)


def test_titles_that_are_taken_stay_and_are_not_given_again():
    shown, report = display_titles(["Heat", "Up", "Heat"], ["7", "8", "9"], taken=["Heat", "Heat (7)"])
    assert shown == ["Heat (7 #2)", "Up", "Heat (9)"]
    assert report.told_apart == 2


@settings(max_examples=100, deadline=None)
@given(st.lists(colliding, max_size=6), st.lists(colliding, max_size=6))
def test_new_items_never_get_a_title_that_is_taken(old, new):
    before, _ = display_titles(old, [str(i) for i in range(len(old))])
    after, _ = display_titles(new, [str(i) for i in range(len(new))], taken=before)
    assert len({*before, *after}) == len(old) + len(new)
