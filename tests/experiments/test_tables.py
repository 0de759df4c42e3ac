import numpy as np
import polars as pl
import pytest
from scipy import stats

from prismrec.evaluation.significance import holm, sign_flip, wilcoxon
from prismrec.experiments import render
from prismrec.experiments.results import read_users
from prismrec.experiments.state import Bench
from prismrec.experiments.tables import Table, make_tables


@pytest.fixture(scope="module")
def tables(done: Bench) -> list[Table]:
    return make_tables(done)


def by_seed(done: Bench, row: int, mode: str, metric: str, part: str = "test") -> dict[int, pl.DataFrame]:
    return {
        seed: read_users(done.out, note.key)
        .filter((pl.col("part") == part) & (pl.col("candidates") == mode))
        .select("user", value=pl.col(metric).cast(pl.Float64))
        for seed, note in done.states[row].notes.items()
    }


def test_a_table_for_each_set_of_candidates(tables: list[Table]) -> None:
    assert [table.candidates for table in tables] == ["strict", "as_released"]
    for table in tables:
        assert [line.label for line in table.lines] == ["random", "oracle", "content-profile", "mamex"]
        assert table.metrics == ("ndcg@10", "ndcg@5", "recall@5", "recall@10")


def test_figures_recomputed_from_the_files(done: Bench, tables: list[Table]) -> None:
    for table in tables:
        for place, line in enumerate(table.lines):
            for metric in table.metrics:
                means = [f["value"].mean() for f in by_seed(done, place, table.candidates, metric).values()]
                low, high = stats.t.interval(0.95, len(means) - 1, np.mean(means), stats.sem(means))
                found = line.figures[metric]
                assert found.mean == pytest.approx(np.mean(means))
                assert (found.low, found.high) == pytest.approx((low, high))
            valid = by_seed(done, place, table.candidates, "ndcg@10", "valid").values()
            assert line.valid.mean == pytest.approx(np.mean([f["value"].mean() for f in valid]))


def test_comparisons_recomputed_from_the_files(done: Bench, tables: list[Table]) -> None:
    table = tables[0]
    values = {
        line.label: pl.concat(by_seed(done, place, "strict", "ndcg@10").values())
        for place, line in enumerate(table.lines)
        if not line.oracle
    }
    means = {line.label: line.figures["ndcg@10"].mean for line in table.lines if not line.oracle}
    best = max(means, key=means.get)
    assert [line.label for line in table.lines if line.best] == [best]
    pairs = [(label, best) for label in means if label != best]
    pairs += [(label, "random") for label in means if label not in ("random", best) and best != "random"]
    gaps = {}
    for a, b in pairs:
        users = {}
        for name, sign in ((a, 1), (b, -1)):
            for user, value in values[name].group_by("user").agg(pl.col("value").mean()).iter_rows():
                users[user] = users.get(user, 0.0) + sign * value
        gaps[a, b] = np.array([users[user] for user in sorted(users)])
    ranked = dict(zip(pairs, holm([wilcoxon(gaps[pair]) for pair in pairs]), strict=True))
    flipped = dict(zip(pairs, holm([sign_flip(gaps[pair]) for pair in pairs]), strict=True))
    lines = {line.label: line for line in table.lines}
    for a, b in pairs:
        versus = lines[a].versus_best if b == best else lines[a].versus_baseline
        assert versus.other == b
        assert versus.wilcoxon_holm == pytest.approx(ranked[a, b])
        assert versus.randomisation_holm == pytest.approx(flipped[a, b])
        assert versus.difference.mean == pytest.approx(means[a] - means[b])


def test_the_best_and_the_baseline_are_compared_once_and_told_twice(tables: list[Table]) -> None:
    for table in tables:
        lines = {line.label: line for line in table.lines}
        best = next(line for line in table.lines if line.best)
        if best.label == "random":
            assert lines["random"].versus_best is None
            continue
        forth, back = lines["random"].versus_best, best.versus_baseline
        assert forth.difference.mean == -back.difference.mean
        assert {forth.verdict, back.verdict} in ({"tie"}, {"better", "worse"})
        assert f"over the {2 * 3 - 3} comparisons" in " ".join(table.notes)


def test_an_oracle_is_shown_and_not_compared(tables: list[Table]) -> None:
    for table in tables:
        line = table.lines[1]
        assert line.oracle
        assert not line.best
        assert line.versus_best is None
        assert line.versus_baseline is None
        assert line.figures["ndcg@10"].mean > table.lines[0].figures["ndcg@10"].mean
        assert any("not a method" in note for note in table.notes)


def test_sizes_and_words(done: Bench, tables: list[Table]) -> None:
    notes = " ".join(tables[0].notes)
    assert "means over 2 seeds of means over 60 users" in notes
    assert "among 30 candidates" in notes
    assert "among 60 candidates" in " ".join(tables[1].notes)
    assert "Two seeds give no usable interval" in notes
    assert "At most 60 users" in notes
    for line in tables[0].lines:
        if line.versus_best is not None:
            word = {"tie": "Ties with it", "worse": "Worse than it"}[line.versus_best.verdict]
            assert line.label in next(note for note in tables[0].notes if note.startswith(word))


def test_missing_seeds_are_said_and_do_not_win(done: Bench) -> None:
    fewer = Bench(done.plan, done.out, [type(s)(**vars(s)) for s in done.states])
    state = fewer.states[2]
    best = max(state.notes, key=lambda seed: state.notes[seed].parts[2].metrics["ndcg@10"].mean)
    state.notes, state.failures = {best: state.notes[best]}, {1 - best: "It broke."}
    table = make_tables(fewer)[0]
    line = table.lines[2]
    assert line.seeds == 1
    assert not line.best
    assert any("1 of 2 seeds finished. It broke." in note for note in table.notes)
    assert "content-profile" in render.markdown([table], "t")


def test_markdown_has_a_cell_for_each_column(tables: list[Table]) -> None:
    text = render.markdown(tables, "a|b", "About <it>.")
    assert text.startswith("# a\\|b")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    widths = {line.replace("\\|", "").count("|") for line in rows}
    assert len(widths) == 1
    assert "not compared" in text
    assert "baseline" in text


def test_latex_closes_what_it_opens_and_escapes(tables: list[Table]) -> None:
    text = render.latex(tables, "bench")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert r"as\_released" in text
    assert r"\textbf{" in text
    assert render.tex("a_b & 5 % <c>") == r"a\_b \& 5 \% $<$c$>$"


def test_p_values_are_short() -> None:
    assert [render.p_value(p) for p in (0.0004, 0.01234, 1.0)] == ["< 0.001", "0.012", "1"]
