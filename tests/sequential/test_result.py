import json

import numpy as np
import polars as pl
import pytest

from prismrec.base.errors import InputError
from prismrec.sequential.examples import Example, Task
from prismrec.sequential.measures import Scored, measure
from prismrec.sequential.result import Costs, judge

EXAMPLES = [Example(f"u{n:02d}", (7, 8, 9), (0, 1, 2), tuple(range(7))) for n in range(40)]


def measured(name, lead, ks=None):
    """The positive is ahead by `lead` of noise; the last question has no answer for the model."""
    random = np.random.default_rng(len(name))
    scores = [random.normal(size=7) + lead * (np.arange(7) == 0) for _ in EXAMPLES]
    scored = [Scored(e, s) for e, s in zip(EXAMPLES, scores, strict=True)]
    if name == "tuned|vlm":
        scored[-1] = Scored(EXAMPLES[-1], None)
    return measure(name, Task.TOP3, scored, ks=ks, resamples=100)


@pytest.fixture(scope="module")
def result():
    costs = Costs(requests=4, seconds=2.0, candidates=10, candidate_tokens=35, prompt_tokens=400)
    costs.longest_prompt = 150
    costs.unparsable_answers += 1
    return judge(
        EXAMPLES,
        measured("tuned|vlm", 3.0),
        measured("popularity", 0.0),
        [measured("before tuning", 2.9)],
        part="test",
        costs=costs,
        settings={"model": "tiny", "seed": 1},
        notes=["First stage: 3 items that it has no vector for."],
        test_openings_before=1,
    )


def test_random_and_popularity_stand_beside_every_figure(result):
    lines = result.to_markdown().splitlines()
    head = next(n for n, line in enumerate(lines) if "hit_rate@3" in line)
    names = [line.split("|")[1].strip() for line in lines[head + 2 : head + 5]]
    assert names == ["random (expected)", "popularity", "before tuning"]
    assert lines[head + 5].startswith("| tuned\\|vlm | ")
    cells = [cell.strip() for cell in lines[head].split("|")]
    expected = lines[head + 2].split("|")
    assert expected[cells.index("hit_rate@3")].strip() == "0.4286"
    assert "| popularity | ndcg@3 | " in result.to_markdown()


def test_verdicts(result):
    assert [one.verdict for one in result.against] == ["better", "tie"]
    assert "| better |" in result.to_markdown()
    assert "| tie |" in result.to_markdown()


def test_misses_costs_and_openings_are_told(result):
    text = result.to_markdown()
    assert "without a usable answer by tuned\\|vlm, counted as misses: 1." in text
    assert "4 requests, 0.500 s each" in text
    assert "100.0 tokens a prompt, 150 the longest" in text
    assert "3.5 tokens a candidate" in text
    assert "unparsable answers: 1" in text
    assert "had been opened once before" in text
    assert "no vector for" in text


def test_json_holds_what_the_tables_show(result):
    found = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert [one["name"] for one in found["measured"]] == ["popularity", "before tuning", "tuned|vlm"]
    assert found["random"]["hit_rate@3"] == pytest.approx(3 / 7)
    assert found["measured"][2]["metrics"]["ndcg@3"]["mean"] == result.ours.metrics["ndcg@3"].mean
    assert found["against"][0]["verdict"] == "better"
    assert found["against"][0]["other"] == "popularity"
    assert found["costs"]["seconds_per_request"] == 0.5
    assert found["test_openings_before"] == 1
    assert (found["task"], found["part"], found["users"]) == ("top3", "test", 40)


def test_write(result, tmp_path):
    result.write(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "sequential.json").read_text()) == result.to_json()
    assert (tmp_path / "new" / "sequential.md").read_text() == result.to_markdown()
    users = pl.read_parquet(tmp_path / "new" / "sequential.parquet")
    means = users.group_by("name").agg(pl.col("mrr").mean())
    assert dict(means.rows()) == pytest.approx({m.name: m.metrics["mrr"].mean for m in result.measured})


def test_costs_of_nothing():
    assert (Costs().seconds_per_request, Costs().tokens_per_candidate, Costs().tokens_per_prompt) == (0, 0, 0)


def test_what_does_not_belong_together_is_refused():
    ours, popularity = measured("ours", 1.0), measured("popularity", 0.0)
    more = {"part": "valid", "costs": Costs(), "settings": {}}
    with pytest.raises(InputError, match="was measured by"):
        judge(EXAMPLES, ours, measured("popularity", 0.0, ks=[3]), **more)
    with pytest.raises(InputError, match="40 of 41"):
        judge([*EXAMPLES, EXAMPLES[0]], ours, popularity, **more)
    given = judge(EXAMPLES, measured("ours", 1.0, ks=[2]), measured("popularity", 0.0, ks=[2]), **more)
    assert list(given.random) == ["hit_rate@2", "ndcg@2", "mrr"]
    assert given.against[0].metric == "ndcg@2"
