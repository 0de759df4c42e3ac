"""What is shown and written of an evaluation."""

import json

import pytest
from pydantic import ValidationError

from prismrec.evaluation.result import EvaluationResult, Interval, PartResult


def result(**changes) -> EvaluationResult:
    part = PartResult(
        part="test",
        candidates="strict",
        n_candidates=1234,
        users_counted=5678,
        users_without_history=12,
        n_positives=23456,
        metrics={"ndcg@10": Interval(mean=0.12345, low=0.12, high=0.13), "hit_rate@10": Interval(mean=0.5)},
        random_floor={"ndcg@10": 0.0081},
    )
    return EvaluationResult(run="r1", model="mamex", dataset="shop", parts=[part]).model_copy(update=changes)


def test_the_numbers_alone():
    assert result().metrics_json() == {
        "test": {
            "strict": {
                "ndcg@10": {"mean": 0.12345, "low": 0.12, "high": 0.13},
                "hit_rate@10": {"mean": 0.5, "low": None, "high": None},
            }
        }
    }
    json.dumps(result().metrics_json(), allow_nan=False)


def test_it_survives_json():
    assert EvaluationResult.model_validate_json(result().model_dump_json()) == result()


def test_a_number_that_is_none_is_refused():
    with pytest.raises(ValidationError):
        Interval(mean=float("nan"))


def test_lines_are_aligned_and_say_what_is_counted():
    lines = result(notes=["Tuned on valid."], test_openings_before=3).table_lines()
    assert lines[0] == "mamex on shop (run r1)"
    assert lines[2] == "test, candidates: strict (1,234 items)"
    assert lines[3] == "  metric         mean     95 % interval  random"
    assert lines[4] == "  ndcg@10      0.1235  0.1200 to 0.1300  0.0081"
    assert lines[5] == "  hit_rate@10  0.5000"
    assert "5,678 users with 23,456 positives, 12 of them without history" in lines[6]
    assert lines[-2:] == ["Tuned on valid.", "The test part of this split had been opened 3 times before."]


def test_printed_it_is_those_lines():
    assert str(result()).splitlines() == result().table_lines()
    assert f"{result()}".startswith("mamex on shop (run r1)\n")


def test_markdown_is_a_table_that_names_cannot_break():
    text = result(run="a|b\n# c", test_openings_before=0).markdown()
    assert text.startswith("## mamex on shop (run a\\|b \\# c)\n")
    assert "| ndcg@10 | 0.1235 | 0.1200 to 0.1300 | 0.0081 |" in text
    assert "|---|---:|---:|---:|" in text
    assert text.endswith("had not been opened before.\n")
