import numpy as np
import polars as pl
import pytest

from prismrec.data.dataset import Dataset
from prismrec.data.splits import PLANS, Part, make_split
from prismrec.evaluation.ranking import Rows
from prismrec.experiments.materials import drawn_users
from prismrec.experiments.measure import by_user, fitted, run_once, source_digest, validated
from prismrec.experiments.results import read_users
from prismrec.experiments.state import Bench
from prismrec.recommender.evaluate import evaluate, open_part


def test_users_figures_average_to_what_evaluate_says(plan, shop: Dataset) -> None:
    spec = (
        plan({"name": "content-profile"}, bench={"candidates": ["strict", "as_released"]}).rows[0].run(1, {})
    )
    note, users = run_once(spec, shop, threads=1)
    recommender, split, _ = fitted(spec, shop)
    for part in ("valid", "test"):
        told = evaluate(recommender, split, part=part, candidates=["strict", "as_released"], ks=spec.ks)
        for theirs in told.parts:
            (ours,) = [p for p in note.parts if (p.part, p.candidates) == (part, theirs.candidates)]
            assert ours.metrics == theirs.metrics
            mine = users.filter((pl.col("part") == part) & (pl.col("candidates") == theirs.candidates))
            assert mine.height == theirs.users_counted
            for name, interval in theirs.metrics.items():
                assert mine[name].dtype == pl.Float32
                assert mine[name].cast(pl.Float64).mean() == pytest.approx(interval.mean, abs=1e-7)


def test_ndcg_of_a_user_by_hand(plan, shop: Dataset) -> None:
    spec = plan({"name": "content-profile"}).rows[0].run(0, {})
    recommender, split, _ = fitted(spec, shop)
    opened = open_part(recommender, split, "valid", ["strict"], [10])
    (frame,) = by_user(recommender, opened)
    candidates = split.candidates(opened.modes[0], Part.VALID)
    vectors = recommender.all_user_vectors()
    for user, ndcg in frame.select("user", "ndcg@10").iter_rows():
        liked = {int(i) for u, i in zip(split.valid.users, split.valid.items, strict=True) if u == user}
        scores = recommender.items.vectors[candidates] @ vectors[user]
        names = split.items.names(candidates)
        order = sorted(range(len(candidates)), key=lambda n: (-scores[n], names[n]))[:10]
        gain = sum(1 / np.log2(r + 2) for r, n in enumerate(order) if int(candidates[n]) in liked)
        ideal = sum(1 / np.log2(r + 2) for r in range(min(10, len(liked))))
        assert ndcg == pytest.approx(gain / ideal, abs=1e-6)


def test_the_test_part_is_opened_once_and_after_validation(plan, shop: Dataset, monkeypatch) -> None:
    import prismrec.experiments.measure as room

    asked: list[str] = []
    real = room.open_part
    monkeypatch.setattr(room, "open_part", lambda *a: asked.append(str(a[2])) or real(*a))
    spec = plan({"name": "random"}, bench={"candidates": ["strict", "as_released"]}).rows[0].run(3, {})
    note, _ = run_once(spec, shop, threads=1)
    assert asked == ["valid", "test"]
    again, _ = run_once(spec, shop, threads=1)
    assert again.test_openings_before == note.test_openings_before + 1


def test_a_trial_sees_validation_only(plan, shop: Dataset, monkeypatch) -> None:
    from prismrec.data.splits import Split

    def sealed(*_: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(Split, "open_test", sealed)
    spec = plan({"name": "content-profile"}).rows[0].run(0, {})
    value, seconds = validated(spec, shop, "ndcg@10")
    assert 0 < value < 1
    assert seconds > 0


def test_only_drawn_users_are_measured_and_the_same_for_all_rows(done: Bench) -> None:
    frames = [read_users(done.out, s.notes[1].key) for s in done.states]
    test = [set(f.filter(pl.col("part") == "test")["user"]) for f in frames]
    assert len(test[0]) == 60
    assert all(users == test[0] for users in test)
    split = make_split(
        Dataset.read(done.states[0].row.data.path), PLANS.validate_python(done.states[0].runs[1].split)
    )
    everyone = split.pairs.users[split.parts == 2]
    assert test[0] == set(drawn_users(everyone, 60, 1).tolist())


def test_an_oracle_ranks_by_the_parts_own_counts(plan, shop: Dataset) -> None:
    spec = plan({"name": "popularity", "label": "o", "oracle": True}).rows[0].run(0, {})
    _, users = run_once(spec, shop, threads=1)
    split = make_split(shop, PLANS.validate_python(spec.split))
    for code, part in ((1, Part.VALID), (2, Part.TEST)):
        pairs = split.pairs.take(split.parts == code)
        counts = np.bincount(pairs.items, minlength=len(split.items))
        candidates = np.flatnonzero(split.cold_items(part))
        names = split.items.names(candidates)
        best = sorted(range(len(candidates)), key=lambda n: (-counts[candidates[n]], names[n]))[:5]
        listed = {int(candidates[n]) for n in best}
        rows = Rows.of(pairs.users, pairs.items, len(split.users))
        for user, recall in users.filter(pl.col("part") == str(part)).select("user", "recall@5").iter_rows():
            mine = (
                rows.columns[rows.starts[user] : rows.starts[user + 1]]
                if hasattr(rows, "columns")
                else (pairs.items[pairs.users == user])
            )
            assert recall == pytest.approx(len(listed & set(mine.tolist())) / len(mine), abs=1e-6)


def test_what_is_kept_of_a_model_that_routes(done: Bench) -> None:
    note = done.states[3].notes[0]
    assert set(note.experts) == {"image", "text"}
    for load in note.experts.values():
        assert len(load) == 4
        assert sum(load) == pytest.approx(1, abs=1e-4)
    for quantiles in note.weights.values():
        assert len(quantiles) == 11
        assert quantiles == sorted(quantiles)
    assert (note.epochs, note.threads, note.source) == (2, 1, source_digest())
    assert {"prepare", "train", "measure.valid", "measure.test"} <= set(note.seconds)
    assert done.states[0].notes[0].experts == {}
