from dataclasses import replace

import pytest

from prismrec.experiments.cost import Cost, Piece, Timings, duration, time_left

A, B = Piece("shop", "mamex (paper)", "mamex"), Piece("shop", "mamex wide", "mamex")
OTHER = Piece("shop", "random", "random")


def test_times_come_from_the_row_else_from_the_model_else_are_unknown() -> None:
    timings = Timings()
    assert timings.one(A) is None
    timings.saw(A, 10.0)
    timings.saw(A, 20.0)
    assert timings.one(A) == 15.0
    assert timings.one(B) == 15.0
    timings.saw(B, 100.0)
    assert timings.one(B) == 100.0
    assert timings.one(A) == 15.0
    assert timings.one(Piece("elsewhere", A.label, "mamex")) is None


def test_a_piece_counts_as_often_as_it_has_trials() -> None:
    timings = Timings()
    timings.saw(A, 10.0)
    assert timings.total([Piece(A.data, A.label, A.model, 7), OTHER]) == (70.0, [OTHER])


def cost(**changes) -> str:
    usual = Cost(runs=10, cached=4, failed_before=0, trials=0, seconds=120.0, unknown=[], jobs=2, threads=1)
    return " ".join(replace(usual, **changes).lines())


def test_what_is_known_is_said() -> None:
    assert "10 runs: 4 are there, 6 to do" in cost()
    assert "about 60 s on 2 processes of 1 thread" in cost()
    assert "failed" not in cost()
    assert "2 of them failed" in cost(failed_before=2)
    assert "20 trials" in cost(trials=20)


def test_what_is_not_known_is_not_guessed() -> None:
    assert "unknown for 1 row that never ran here (random on shop)" in cost(
        unknown=[OTHER, OTHER], seconds=0.0
    )
    assert "about 60 s for what ran here before" in cost(unknown=[OTHER])
    assert "Time" not in cost(cached=10, seconds=0.0)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (40, "40 s"), (420, "7 min"), (7500, "2 h 05 min"), (5400, "1 h 30 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_time_left() -> None:
    timings = Timings()
    assert time_left(timings, [A], 1) == "time left not known yet"
    timings.saw(A, 30.0)
    assert time_left(timings, [A], 2) == "about 15 s left"
    assert time_left(timings, [A, OTHER], 1) == "at least 30 s left, 1 not timed yet"
    assert time_left(timings, [], 1) == ""
