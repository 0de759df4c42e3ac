"""Questions cut from a log: what each part may know, what candidates may be, and that nothing is lost."""

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prismrec.base.errors import InputError
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Interactions
from prismrec.sequential.examples import Example, Task
from prismrec.sequential.histories import Dropped, Sequence, make_examples, sequences
from prismrec.sequential.prepare import PrepareConfig

PARTS = ("train", "valid", "test")


def dataset(histories, n_items, untitled=(), order="position", times=None):
    """Make a data set: of each user the item codes, oldest first."""
    log = [(user, item, place) for user, items in histories.items() for place, item in enumerate(items)]
    frame = pl.DataFrame(
        {
            "user_id": [user for user, _, _ in log],
            "item_id": [f"i{item:03}" for _, item, _ in log],
            **({order: times or [float(place) for _, _, place in log]} if order else {}),
        },
        schema_overrides={"user_id": pl.String, "item_id": pl.String},
    )
    titles = [None if item in untitled else f"Title {item}" for item in range(n_items)]
    items = pl.DataFrame(
        {"item_id": [f"i{item:03}" for item in range(n_items)], "title": pl.Series(titles, dtype=pl.String)}
    )
    return Dataset(Interactions(frame), Catalog(items))


def random_histories(n_users, n_items, longest, seed):
    random = np.random.default_rng(seed)
    return {
        f"u{user:03}": random.permutation(n_items)[: random.integers(1, longest + 1)].tolist()
        for user in range(n_users)
    }


logs = st.builds(
    random_histories, st.integers(3, 12), st.just(40), st.integers(10, 16), st.integers(0, 10_000)
)
tasks = st.sampled_from([Task.BINARY, Task.TOP3, Task.NEXT, Task.RERANK])


def made(histories, config, n_items=40, untitled=()):
    """Make examples of a log, with a first stage that gives all items alike; skip what cannot train."""
    stage = np.tile(np.arange(n_items), (len(histories), 1)) if config.task is Task.RERANK else None
    try:
        return make_examples(dataset(histories, n_items, untitled), config, stage)
    except InputError as error:
        assume("no training example" not in str(error))
        raise


# Sequences


def test_items_come_oldest_first_whatever_the_order_of_the_rows_and_each_once():
    frame = pl.DataFrame(
        {
            "user_id": ["b", "a", "a", "a", "a", "b"],
            "item_id": ["z", "z", "y", "x", "y", "x"],
            "timestamp": [9.0, 5.0, 7.0, 6.0, 1.0, 8.0],
        }
    )
    data = Dataset(Interactions(frame), Catalog(pl.DataFrame({"item_id": ["x", "y", "z"]})))
    assert sequences(data) == [Sequence("a", (1, 2, 0)), Sequence("b", (0, 2))]


def test_what_has_the_same_time_comes_by_item_code():
    data = dataset({"a": [2, 0, 1], "b": [1, 2, 0]}, 3, times=[5.0, 5.0, 4.0, 1.0, 1.0, 1.0])
    assert [one.items for one in sequences(data)] == [(1, 0, 2), (0, 1, 2)]


def test_without_an_order_or_with_gaps_in_it_there_is_an_error():
    with pytest.raises(InputError, match="'timestamp' nor 'position'"):
        sequences(dataset({"a": [0, 1]}, 2, order=None))
    with pytest.raises(InputError, match=r"1 interactions have no timestamp.*'a'.*'i001'"):
        sequences(dataset({"a": [0, 1]}, 2, order="timestamp", times=[1.0, None]))


# The cut, by hand


def test_the_last_tests_the_one_before_validates_and_windows_end_before():
    config = PrepareConfig(task=Task.NEXT, history=2, windows=0, negatives=3, min_interactions=2)
    found = make_examples(dataset({"a": [5, 6, 7, 8, 9]}, 20), config)

    def cut(examples):
        return [(e.history, e.positives) for e in examples]

    assert cut(found.test) == [((7, 8), (9,))]
    assert cut(found.valid) == [((6, 7), (8,))]
    assert cut(found.train) == [((5, 6), (7,)), ((5,), (6,))]
    assert found.dropped == ()


def test_top3_takes_three_the_latest_first():
    config = PrepareConfig(task=Task.TOP3, windows=0)
    found = make_examples(dataset({"a": list(range(11))}, 20), config)
    assert [(e.history, e.positives) for e in found.test] == [((5, 6, 7), (10, 9, 8))]
    assert [(e.history, e.positives) for e in found.valid] == [((2, 3, 4), (7, 6, 5))]
    assert [(e.history, e.positives) for e in found.train] == [((0, 1), (4, 3, 2)), ((0,), (3, 2, 1))]
    assert all(len(e.candidates) == 7 and set(e.positives) <= set(e.candidates) for e in found.train)


def test_windows_bound_what_a_user_gives_and_say_how_many_were_left_out():
    log = {"a": list(range(8)), "b": list(range(10, 20))}
    found = make_examples(dataset(log, 60), PrepareConfig(windows=2))
    assert [(e.user, e.positives) for e in found.train] == [
        ("a", (5,)),
        ("a", (4,)),
        ("b", (17,)),
        ("b", (16,)),
    ]
    assert found.dropped == (Dropped("training windows beyond the latest of a user ('windows')", 3 + 5),)


def test_everything_that_is_left_out_is_counted():
    log = {"few": [0, 1], "gap": [2, 3, 4, 5, 6, 39], "top": [2, 3, 4, 5, 6, 7], "long": list(range(10, 20))}
    config = PrepareConfig(task=Task.TOP3)
    found = make_examples(dataset(log, 40, untitled=(39,)), config)
    assert [e.user for e in found.test] == ["long", "top"]
    assert set(found.dropped) == {
        Dropped("interactions with an item that has no title", 1),
        Dropped("users with fewer than 6 interactions", 2),
        Dropped("valid examples of users with nothing before the positives", 1),
        Dropped("train examples of users with nothing before the positives", 1),
    }


def test_a_user_who_has_touched_nearly_everything_is_left_out_and_counted():
    found = make_examples(
        dataset({"a": list(range(10)), "b": list(range(6))}, 12), PrepareConfig(negatives=3)
    )
    assert {e.user for part in PARTS for e in getattr(found, part)} == {"b"}
    reasons = {d.reason: d.count for d in found.dropped if "untouched" in d.reason}
    assert reasons == {
        f"{part} examples of users with fewer than 3 untouched items to draw from": 1 for part in PARTS
    }


def test_no_training_example_is_an_error_that_says_why():
    with pytest.raises(InputError, match="no training example: 1 users with fewer than 6"):
        make_examples(dataset({"a": [1, 2, 3]}, 40), PrepareConfig())
    with pytest.raises(InputError, match="10 for one example"):
        make_examples(dataset({"a": [1, 2, 3, 4, 5, 6]}, 40), PrepareConfig(task=Task.TOP3))


def test_a_first_stage_is_for_reranking_and_for_nothing_else():
    data = dataset({"a": list(range(8))}, 40)
    with pytest.raises(InputError, match="first stage was given"):
        make_examples(data, PrepareConfig(), np.zeros((1, 3), dtype=int))
    with pytest.raises(InputError, match="not given"):
        make_examples(data, PrepareConfig(task=Task.RERANK))


def test_a_positive_that_the_first_stage_misses_is_put_in_for_training_only():
    config = PrepareConfig(task=Task.RERANK, negatives=3)
    asked = []

    def stage(users):
        asked.append(users)
        return np.tile(np.arange(20, 30), (len(users), 1))

    found = make_examples(dataset({"a": list(range(8)), "b": [0, 1, 2, 3, 4, 20, 21, 22]}, 40), config, stage)
    assert asked == [["a", "b"]]
    a, b = found.train
    assert set(a.candidates) == {20, 21, 5}
    # b's later items 21 and 22 are no negatives, 20 is the positive.
    assert set(b.candidates) == {20, 23, 24}
    assert [set(e.candidates) for e in found.test] == [{20, 21, 22}, {22, 23, 24}]
    assert [set(e.candidates) for e in found.valid] == [{20, 21, 22}, {21, 23, 24}]


def test_all_candidates_are_all_titles_that_the_user_has_not_touched():
    config = PrepareConfig(negatives="all", min_interactions=2)
    found = make_examples(dataset({"a": [0, 1, 2, 3, 4, 5]}, 12, untitled=(11,)), config)
    assert sorted(found.test[0].candidates) == [5, 6, 7, 8, 9, 10]
    assert sorted(found.train[0].candidates) == [3, 6, 7, 8, 9, 10]


def test_more_candidates_than_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr("prismrec.sequential.histories._MOST_CANDIDATES", 100)
    with pytest.raises(InputError, match="'negatives' to a number"):
        make_examples(dataset({"a": list(range(8))}, 40), PrepareConfig(negatives="all"))


# Invariants


@given(
    logs, tasks, st.sampled_from(["last", "users"]), st.integers(0, 3), st.integers(1, 4), st.integers(0, 5)
)
def test_no_part_sees_what_a_later_part_asks_and_no_negative_was_ever_touched(
    histories, task, split, windows, shown, seed
):
    untitled = (3, 17)
    config = PrepareConfig(
        task=task, split=split, windows=windows, history=shown, seed=seed, valid=0.2, test=0.2
    )
    found = made(histories, config, untitled=untitled)
    asked = {part: {} for part in PARTS}
    for part in PARTS:
        for e in getattr(found, part):
            # What was truly taken: a False label shows another item.
            if e.label is not False:
                asked[part].setdefault(e.user, set()).update(e.positives)
    for place, part in enumerate(PARTS):
        for e in getattr(found, part):
            sequence = [item for item in histories[e.user] if item not in untitled]
            touched = set(histories[e.user])
            taken = () if e.label is False else e.positives
            # Positives are consecutive, latest first, right behind the history.
            window = [*e.history, *reversed(taken)]
            first = sequence.index(e.history[0])
            assert window == sequence[first : first + len(window)]
            assert 1 <= len(e.history) <= shown
            known = {*e.history, *e.positives, *e.candidates, *e.listed}
            for later in PARTS[place + 1 :]:
                assert not known & asked[later].get(e.user, set())
            wrong = known - set(e.history) - set(taken)
            assert not wrong & touched
            assert not known & set(untitled)
            assert len(set(e.candidates)) == len(e.candidates)
    if split == "users":
        users = [{e.user for e in getattr(found, part)} for part in PARTS]
        assert len(set.union(*users)) == sum(map(len, users))


@settings(max_examples=25)
@given(logs, st.integers(0, 50))
def test_each_user_is_asked_or_counted(histories, seed):
    config = PrepareConfig(split="users", seed=seed)
    found = made(histories, config)
    few = sum(d.count for d in found.dropped if d.reason.startswith("users with fewer"))
    examples = [e for part in PARTS for e in getattr(found, part)]
    assert len({e.user for e in examples}) == len(examples) == len(histories) - few
    assert few == sum(len(items) < 6 for items in histories.values())
    assert len(found.test) == len(found.valid) == round(0.1 * len(examples))
    # As published: five items and the one behind them are the last six.
    assert all([*e.history, *e.positives] == histories[e.user][-6:] for e in examples)


@settings(max_examples=25)
@given(logs, st.integers(0, 50), st.sampled_from(["last", "users"]))
def test_half_of_the_binary_examples_of_each_part_are_true(histories, seed, split):
    found = made(histories, PrepareConfig(task=Task.BINARY, seed=seed, split=split, windows=0))
    for part in PARTS:
        examples = getattr(found, part)
        assert abs(2 * sum(e.label for e in examples) - len(examples)) <= 1
        for e in examples:
            assert (len(e.positives), len(set(e.listed)), e.candidates) == (1, 4, ())
            assert e.positives[0] not in e.listed


@settings(max_examples=25)
@given(logs, tasks, st.integers(0, 50))
def test_the_same_seed_gives_the_same_and_the_order_of_the_log_does_not_matter(histories, task, seed):
    config = PrepareConfig(task=task, seed=seed, windows=0)
    found = made(histories, config)
    assert found == made(histories, config)
    assert found == made(dict(reversed(histories.items())), config)


@settings(max_examples=25)
@given(logs, st.sampled_from([Task.TOP3, Task.NEXT]), st.integers(0, 50))
def test_more_users_change_nobodys_examples(histories, task, seed):
    config = PrepareConfig(task=task, seed=seed, windows=0)
    alone = made(histories, config)
    more = made({**histories, "a-new-one": list(range(12)), "z": list(range(20, 32))}, config)
    for part in PARTS:
        assert getattr(alone, part) == [e for e in getattr(more, part) if e.user in histories]


def test_a_users_labels_stay_but_at_the_border_and_drawn_titles_stay_all():
    histories = random_histories(60, 40, 16, seed=1)
    config = PrepareConfig(task=Task.BINARY)
    alone = made(histories, config)
    more = made({**histories, "a-new-one": list(range(12))}, config)
    old = [e for e in more.train if e.user in histories]
    assert [e.listed for e in old] == [e.listed for e in alone.train]
    assert sum(a.label != b.label for a, b in zip(alone.train, old, strict=True)) <= 1


@pytest.mark.parametrize("task", [Task.TOP3, Task.NEXT, Task.RERANK])
def test_the_place_of_the_positive_says_nothing(task):
    histories = {f"u{n}": list(range(12)) for n in range(900)}
    stage = np.tile(np.arange(2, 40), (900, 1)) if task is Task.RERANK else None
    config = PrepareConfig(task=task, negatives=4)
    found = make_examples(dataset(histories, 40), config, stage)
    for examples in (found.train, found.test):
        width = len(examples[0].candidates)
        places = [e.candidates.index(e.positives[0]) for e in examples]
        counts = np.bincount(places, minlength=width)
        expected = len(examples) / width
        # Chi-squared with at most 6 degrees of freedom exceeds 28 once in 10,000 times.
        assert ((counts - expected) ** 2 / expected).sum() < 28


def test_uniform_negatives_hit_every_free_item_alike():
    histories = {f"u{n}": list(range(6)) for n in range(1500)}
    found = make_examples(dataset(histories, 16), PrepareConfig(negatives=2))
    drawn = [c for e in found.test for c in e.candidates if c not in e.positives]
    counts = np.bincount(drawn, minlength=16)
    assert counts[:6].sum() == 0
    # Ten items, 3000 draws: five standard deviations around 300.
    assert np.abs(counts[6:] - 300).max() < 5 * 300**0.5


def test_popular_negatives_are_counted_in_training_and_nowhere_else():
    # Everybody's test item is 30, which nobody takes in training; item 20 is taken by all of `crowd`.
    crowd = {f"c{n:03}": [20, 21, 22, 23, 24, 25, 26, 30] for n in range(200)}
    asked = {f"u{n:03}": [0, 1, 2, 3, 4, 5, 6, 7] for n in range(200)}
    config = PrepareConfig(negatives=1, negative_source="popularity", history=5)
    found = make_examples(dataset({**crowd, **asked}, 40), config)
    drawn = [c for e in found.test if e.user in asked for c in e.candidates if c not in e.positives]
    counts = np.bincount(drawn, minlength=40)
    # Windows show 20 to 25 (five items, one positive); 26 and 30 only validate and test.
    assert counts[20:26].sum() > 190
    assert counts[[26, 30]].sum() <= 5


def test_examples_hold_plain_values():
    found = make_examples(dataset({"a": list(range(8))}, 40), PrepareConfig())
    example = found.test[0]
    assert isinstance(example, Example)
    assert all(type(code) is int for code in (*example.history, *example.positives, *example.candidates))
