import json
from pathlib import Path
from typing import Any

import pytest

from prismrec.base.errors import ConfigError, InputError, StorageError
from prismrec.experiments.plan import RunSpec, SearchSpec
from prismrec.experiments.search import SEARCHES, Trial, changed, read_search, search

SPACE = {
    "align": {"low": 0.01, "high": 1.0, "log": True},
    "experts": {"choices": [2, 4, 6]},
    "training.epochs": {"low": 1, "high": 50},
}


class Bowl:
    """Stands for training: a figure that is known beforehand, highest at align 0.3, 6 experts, 20 epochs."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.runs: list[RunSpec] = []
        self.stop_after = stop_after

    def __call__(self, run: RunSpec, dataset: Any, metric: str) -> tuple[float, float]:
        if self.stop_after is not None and len(self.runs) >= self.stop_after:
            raise KeyboardInterrupt
        self.runs.append(run)
        far = abs(run.config["align"] - 0.3) + abs(run.config["experts"] - 6) / 10
        return 1 - far - abs(run.training["epochs"] - 20) / 100, 1.5


@pytest.fixture
def spec(plan) -> SearchSpec:
    return make(plan, 12)


def make(plan, budget: int, space: dict[str, Any] = SPACE, **settings: Any) -> SearchSpec:
    model = {"name": "mamex", "preset": "paper", "search": space, "set": settings, "training": {"epochs": 40}}
    return plan(model, bench={"budget": budget}).rows[0].search()


def go(spec: SearchSpec, out: Path, train: Any) -> list[Trial]:
    return search(spec, None, out, lambda trial: None, train).trials


def test_the_first_trial_is_the_row_as_written_and_the_best_is_never_below_it(spec, tmp_path: Path) -> None:
    bowl = Bowl()
    note = search(spec, None, tmp_path, lambda trial: None, bowl)
    assert bowl.runs[0] == spec.start
    assert note.trials[0].settings == {}
    assert len(note.counted(12)) == 12
    best = note.best(12)
    assert best.value == max(trial.value for trial in note.trials)
    assert best.value > note.trials[0].value


def test_what_is_drawn_lies_in_the_space(spec, tmp_path: Path) -> None:
    for trial in go(spec, tmp_path, Bowl())[1:]:
        assert set(trial.settings) == set(SPACE)
        assert 0.01 <= trial.settings["align"] <= 1.0
        assert trial.settings["experts"] in (2, 4, 6)
        assert isinstance(trial.settings["training.epochs"], int)


def test_a_killed_search_goes_on_as_if_it_had_not_been(spec, tmp_path: Path) -> None:
    whole = go(spec, tmp_path / "whole", Bowl())
    with pytest.raises(KeyboardInterrupt):
        go(spec, tmp_path / "cut", Bowl(stop_after=5))
    assert len(read_search(tmp_path / "cut", spec).trials) == 5
    bowl = Bowl()
    assert go(spec, tmp_path / "cut", bowl) == whole
    assert len(bowl.runs) < 12 - 4


def test_a_longer_search_goes_on_from_a_shorter_one(plan, tmp_path: Path) -> None:
    short = go(make(plan, 4), tmp_path, Bowl())
    long = go(make(plan, 9), tmp_path, Bowl())
    assert long[:4] == short
    # And the shorter budget does not profit from what the longer one found.
    assert read_search(tmp_path, make(plan, 4)).best(4) == max(short, key=lambda trial: trial.value)


def test_seeds_draw_differently(plan, tmp_path: Path) -> None:
    model = {"name": "mamex", "preset": "paper", "search": SPACE}
    found = [
        go(plan(model, bench={"budget": 4, "seeds": [seed]}).rows[0].search(), tmp_path / str(seed), Bowl())[
            1:
        ]
        for seed in (0, 1)
    ]
    assert [t.settings for t in found[0]] != [t.settings for t in found[1]]


def test_impossible_combinations_are_kept_and_do_not_count(plan, tmp_path: Path) -> None:
    spec = make(plan, 6, {"experts": {"low": 1, "high": 6}, "top_k": {"low": 1, "high": 6}})
    note = search(spec, None, tmp_path, lambda trial: None, Bowl())
    wrong = [trial for trial in note.trials if not trial.counts]
    assert wrong
    assert all(t.settings["top_k"] > t.settings["experts"] and "top_k" in t.problem for t in wrong)
    assert len(note.counted(6)) == 6


def test_nothing_possible_is_an_error(plan, tmp_path: Path) -> None:
    spec = make(plan, 6, {"experts": {"choices": [1]}, "top_k": {"choices": [2, 3]}})
    with pytest.raises(InputError, match="in a row"):
        go(spec, tmp_path, Bowl())


def test_trials_that_fail_count_and_are_not_chosen(spec, tmp_path: Path) -> None:
    bowl = Bowl()

    def fragile(run: RunSpec, dataset: Any, metric: str) -> tuple[float, float]:
        if run.config["align"] > 0.2 or run == spec.start:
            raise InputError("Training diverged.")
        return bowl(run, dataset, metric)

    note = search(spec, None, tmp_path, lambda trial: None, fragile)
    failed = [trial for trial in note.trials if trial.value is None]
    assert failed
    assert all(trial.problem == "Training diverged." for trial in failed)
    assert len(note.counted(12)) == 12
    assert note.best(12).settings["align"] <= 0.2


def test_if_all_fail_it_is_said(spec, tmp_path: Path) -> None:
    def broken(*_: Any) -> tuple[float, float]:
        raise InputError("No.")

    with pytest.raises(InputError, match="All 12 trials"):
        go(spec, tmp_path, broken)


def test_a_full_disk_is_no_property_of_the_settings(spec, tmp_path: Path) -> None:
    def full(*_: Any) -> tuple[float, float]:
        raise StorageError("The disk is full.")

    with pytest.raises(StorageError):
        go(spec, tmp_path, full)
    assert read_search(tmp_path, spec).trials == []


def test_the_same_settings_are_not_trained_twice(plan, tmp_path: Path) -> None:
    bowl = Bowl()
    trials = go(make(plan, 10, {"experts": {"choices": [2, 4, 6]}}), tmp_path, bowl)
    assert len(trials) == 10
    assert len(bowl.runs) == 3
    for trial in trials:
        experts = trial.settings.get("experts", 4)
        assert trial.value == Bowl()(changed(make(plan, 1).start, {"experts": experts}), None, "")[0]


def test_a_broken_file_counts_as_none(spec, tmp_path: Path) -> None:
    path = tmp_path / SEARCHES / f"{spec.key}.json"
    path.parent.mkdir()
    path.write_text("{")
    assert read_search(tmp_path, spec).trials == []
    go(spec, tmp_path, Bowl())
    assert len(json.loads(path.read_text())["trials"]) == 12


def test_settings_of_a_strategy_are_searched(plan, tmp_path: Path) -> None:
    """What lies in tables within tables is one setting with dots, wherever it is written."""
    space = {"training": {"strategy": {"rho": {"low": 0.001, "high": 1.0, "log": True}}}}
    model = {"name": "mamex", "preset": "paper", "search": space, "training": {"strategy": "bsam+"}}
    spec = plan(model, bench={"budget": 4}).rows[0].search()
    trials = go(spec, tmp_path, Bowl())
    drawn = [trial.settings["training.strategy.rho"] for trial in trials[1:]]
    assert len(set(drawn)) == 3
    run = changed(spec.start, trials[1].settings)
    assert run.training["strategy"]["name"] == "bsam+"
    assert run.training["strategy"]["rho"] == drawn[0]
    assert spec.start.training["strategy"]["rho"] != drawn[0]


def test_a_setting_that_the_strategy_lacks_is_named(plan) -> None:
    model = {"name": "mamex", "preset": "paper", "search": {"training.strategy.rho": {"choices": [0.1]}}}
    with pytest.raises(ConfigError, match=r"training\.strategy\.rho"):
        plan(model, bench={"budget": 4})
