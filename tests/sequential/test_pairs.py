"""Wrong answers: never touched, never twice, from where they were asked for, and counted where not."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.base.errors import ConfigError, DamagedError, InputError
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Interactions
from prismrec.sequential.examples import Example, Task
from prismrec.sequential.histories import make_examples
from prismrec.sequential.pairs import Pair, PairConfig, make_pairs, read_pairs, write_pairs
from prismrec.sequential.prepare import PrepareConfig

N = 40
SOURCES = ("candidates", "uniform", "popularity", "neighbours", "genre", "policy")


def dataset(histories, n_items=N, genres=None, untitled=()):
    """Make a data set: of each user the item codes, oldest first."""
    log = [(user, item, place) for user, items in histories.items() for place, item in enumerate(items)]
    frame = pl.DataFrame(
        {
            "user_id": [user for user, _, _ in log],
            "item_id": [f"i{item:03}" for _, item, _ in log],
            "position": [float(place) for _, _, place in log],
        }
    )
    items = pl.DataFrame(
        {
            "item_id": [f"i{item:03}" for item in range(n_items)],
            "title": [None if item in untitled else f"Title {item}" for item in range(n_items)],
            "genre": genres or [f"g{item % 4}" for item in range(n_items)],
        }
    )
    return Dataset(Interactions(frame), Catalog(items))


def made(data, examples, source, count=1, seed=0, **given):
    """Make pairs, with whatever the source needs, items being alike that are next to each other."""
    if source == "neighbours" and "neighbours" not in given:
        codes = np.arange(len(data.items))[:, None]
        given["neighbours"] = (codes + np.array([1, -1, 2, -2, 3, -3, 4, -4])) % len(data.items)
    if source == "policy" and "scores" not in given:
        given["scores"] = [np.array(e.candidates, dtype=float) for e in examples]
    attribute = "genre" if source == "genre" else None
    config = PairConfig(source=source, rejected=count, attribute=attribute, seed=seed)
    return make_pairs(examples, config, data, **given)


logs = st.builds(
    lambda users, seed: {
        f"u{user:03}": np.random.default_rng((seed, user)).permutation(N)[: 13 + user % 5].tolist()
        for user in range(users)
    },
    st.integers(1, 6),
    st.integers(0, 10_000),
)


@settings(max_examples=40)
@given(
    logs,
    st.sampled_from(SOURCES),
    st.sampled_from([Task.TOP3, Task.NEXT]),
    st.integers(1, 4),
    st.integers(0, 5),
)
def test_wrong_answers_are_wrong_distinct_and_as_long_as_the_right_one(histories, source, task, count, seed):
    data = dataset(histories, untitled=(5, 6))
    examples = make_examples(data, PrepareConfig(task=task, windows=0, seed=seed)).train
    found = made(data, examples, source, count, seed)
    assert [pair.example for pair in found.pairs] == list(range(len(examples)))
    for pair, example in zip(found.pairs, examples, strict=True):
        assert pair.chosen == example.positives
        assert len(pair.rejected) == count
        assert {len(answer) for answer in pair.rejected} == {len(pair.chosen)}
        wrong = [code for answer in pair.rejected for code in answer]
        assert len(set(wrong)) == len(wrong)
        assert not set(wrong) & {*histories[example.user], 5, 6}
        assert all(type(code) is int for code in wrong)
    assert found.titles == len(examples) * count * len(examples[0].positives)
    assert 0 <= found.filled <= found.titles
    assert found.dropped == ()
    assert found == made(data, examples, source, count, seed)


@settings(max_examples=40)
@given(logs, st.sampled_from(SOURCES), st.integers(0, 5))
def test_a_pair_depends_on_its_example_and_not_on_the_others(histories, source, seed):
    if source == "popularity":
        return
    data = dataset(histories)
    examples = make_examples(data, PrepareConfig(windows=0)).train
    whole = made(data, examples, source, 2, seed)
    part = made(data, examples[1::2], source, 2, seed)
    assert [pair.rejected for pair in part.pairs] == [pair.rejected for pair in whole.pairs[1::2]]


def test_candidates_serve_while_there_are_some_and_the_rest_is_counted():
    data = dataset({"a": list(range(10))})
    example = Example("a", (0, 1), (4, 3, 2), candidates=(20, 4, 21, 3, 22, 2, 23))
    one = made(data, [example], "candidates")
    assert set(one.pairs[0].rejected[0]) < {20, 21, 22, 23}
    assert (one.titles, one.filled) == (3, 0)
    two = made(data, [example], "candidates", 2)
    first, second = two.pairs[0].rejected
    assert set(first) < {20, 21, 22, 23}
    # One candidate is left for the second answer, the other two are drawn.
    assert len(set(second) & {20, 21, 22, 23}) == 1
    assert (two.titles, two.filled) == (6, 2)


def test_policy_takes_the_best_scored_wrong_candidates_in_order():
    data = dataset({"a": list(range(10))})
    example = Example("a", (0,), (1,), candidates=(20, 1, 21, 22, 23))
    scores = [np.array([0.1, 9.0, 0.7, -1.0, 0.7])]
    pair = made(data, [example], "policy", 3, scores=scores).pairs[0]
    assert pair == Pair(0, (1,), ((21,), (23,), (20,)))
    three = Example("a", (0,), (3, 2, 1), candidates=(20, 1, 21, 2, 22, 3, 23))
    scores = [np.array([1.0, 9, 2, 9, 3, 9, 4])]
    assert made(data, [three], "policy", scores=scores).pairs[0].rejected == ((23, 22, 21),)


def test_neighbours_are_aligned_with_the_answer_and_skip_what_was_touched():
    data = dataset({"a": [10, 11, 12, 20, 30]})
    near = np.full((N, 3), -1)
    near[12] = [11, 13, 14]
    near[20] = [13, 21, -1]
    near[30] = [31, -1, -1]
    example = Example("a", (10, 11), (12, 20, 30))
    found = made(data, [example], "neighbours", neighbours=near)
    # 11 was touched; 13 is taken by the first place.
    assert found.pairs[0].rejected == ((13, 21, 31),)
    assert found.filled == 0
    more = made(data, [example], "neighbours", 2, neighbours=near)
    assert more.pairs[0].rejected[0] == (13, 21, 31)
    assert more.pairs[0].rejected[1][0] == 14
    assert more.filled == 2


def test_genre_shares_a_value_at_each_place_of_the_answer():
    # Twelve kinds, so that a draw from all items would hardly pass.
    data = dataset({"a": [0, 1, 2, 3]}, 120, [f"g{item % 12}" for item in range(120)])
    example = Example("a", (0,), (3, 2, 1))
    for seed in range(20):
        found = made(data, [example], "genre", 2, seed)
        for answer in found.pairs[0].rejected:
            assert [code % 12 for code in answer] == [3, 2, 1]
        assert found.filled == 0


def test_a_kind_of_its_own_falls_back_and_is_counted():
    data = dataset({"a": [0, 1]}, 10, ["alone", "alone", *["other"] * 8])
    found = made(data, [Example("a", (0,), (1,))], "genre", 3)
    assert (found.titles, found.filled) == (3, 3)
    assert all(2 <= code < 10 for (code,) in found.pairs[0].rejected)


def test_popular_items_are_rejected_more_often():
    histories = {f"u{n:03}": [n % 10, 30, 31] for n in range(100)} | {"z": [20, 21]}
    examples = [Example(user, tuple(items[:-1]), (items[-1],)) for user, items in histories.items()]
    asked = [Example("z", (20,), (21,))]
    data = dataset(histories)
    drawn = [
        made(data, [*asked, *examples], "popularity", 1, seed).pairs[0].rejected[0][0] for seed in range(200)
    ]
    # 30 and 31 have 100 users each; the others together 100 (of ten items) and once each of what is left.
    assert 90 < sum(code in (30, 31) for code in drawn) < 150


def test_binary_pairs_hold_no_items_and_have_one_wrong_answer():
    data = dataset({"a": list(range(10)), "b": list(range(9))})
    examples = make_examples(data, PrepareConfig(task=Task.BINARY)).train
    assert made(data, examples, "candidates").pairs == [Pair(0, (), ()), Pair(1, (), ())]
    with pytest.raises(InputError, match="'rejected' to 1"):
        made(data, examples, "candidates", 2)


def test_an_example_without_wrong_answers_is_left_out_and_counted():
    data = dataset({"a": [0, 1, 2], "b": [0, 1]}, 4)
    examples = [Example("a", (0,), (1,)), Example("b", (0,), (1,))]
    found = made(data, examples, "uniform", 2)
    assert [pair.example for pair in found.pairs] == [1]
    assert [d.count for d in found.dropped] == [1]
    assert found.titles == 2


def test_what_a_source_needs_has_to_be_given_and_to_fit():
    data = dataset({"a": list(range(10))})
    examples = [Example("a", (0,), (1,), candidates=(1, 20, 21))]
    neighbours, policy = PairConfig(source="neighbours"), PairConfig(source="policy")
    with pytest.raises(InputError, match="neighbours were not given"):
        make_pairs(examples, neighbours, data)
    with pytest.raises(InputError, match="scores were given"):
        make_pairs(examples, PairConfig(), data, scores=[np.zeros(3)])
    for wrong in (np.zeros((3, 2), int), np.zeros((N, 2)), np.full((N, 2), N)):
        with pytest.raises(InputError, match="The neighbours"):
            make_pairs(examples, neighbours, data, neighbours=wrong)
    with pytest.raises(InputError, match="scores for 2 examples"):
        make_pairs(examples, policy, data, scores=[np.zeros(3), np.zeros(3)])
    for scores in (np.zeros(2), np.array([0.0, np.nan, 1.0])):
        with pytest.raises(InputError, match="scores of example 0"):
            make_pairs(examples, policy, data, scores=[scores])
    with pytest.raises(InputError, match=r"no attribute 'kind'.*\n.*genre"):
        make_pairs(examples, PairConfig(source="genre", attribute="kind"), data)
    with pytest.raises(InputError, match="item code 99"):
        make_pairs([Example("a", (0,), (99,))], PairConfig(), data)
    with pytest.raises(InputError, match="no user 'x'"):
        make_pairs([Example("x", (0,), (1,))], PairConfig(), data)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"source": "genre"}, "attribute"),
        ({"attribute": "genre"}, "attribute"),
        ({"rejected": 0}, "rejected"),
        ({"sorce": "uniform"}, "'source'"),
        ({"source": "luck"}, "source"),
    ],
)
def test_a_wrong_setting_is_named(values, named):
    with pytest.raises(ConfigError, match=named):
        PairConfig.parse(values)


@given(st.lists(st.builds(Pair, st.integers(0, 10**9), st.just((1, 2)), st.just(((3, 4), (5, 6))))))
def test_pairs_are_read_as_they_were_written(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    pairs = [*pairs, Pair(7, (), ()), Pair(8, (1,), ((2,),))]
    write_pairs(path, pairs)
    assert read_pairs(path) == pairs


def test_no_pairs_are_written_and_read_too_and_a_broken_file_is_named(tmp_path):
    write_pairs(tmp_path / "none.parquet", [])
    assert read_pairs(tmp_path / "none.parquet") == []
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    pl.DataFrame({"example": [1]}).write_parquet(tmp_path / "other.parquet")
    for name in ("broken", "other", "missing"):
        with pytest.raises(DamagedError, match=name):
            read_pairs(tmp_path / f"{name}.parquet")
