"""Popularity counts users, and only what they are known to have taken."""

from prismrec.sequential.examples import Example
from prismrec.sequential.popularity import popularity


def test_a_user_counts_once_an_item_though_windows_overlap():
    examples = [Example("a", (0, 1), (2,)), Example("a", (0,), (1,)), Example("b", (2,), (0,))]
    assert popularity(examples, 5).tolist() == [2, 1, 2, 0, 0]


def test_what_was_asked_about_and_not_taken_does_not_count():
    examples = [Example("a", (0,), (1,), label=False), Example("a", (0,), (2,), label=True)]
    assert popularity(examples, 4).tolist() == [1, 0, 1, 0]


def test_candidates_and_listed_items_do_not_count_and_nothing_gives_zeros():
    assert popularity([Example("a", (0,), (1,), candidates=(1, 2), listed=(3,))], 4).tolist() == [1, 1, 0, 0]
    assert popularity([], 3).tolist() == [0, 0, 0]
