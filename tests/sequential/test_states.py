"""What a kill left half is gone, and the log says each step once."""

import math

from prismrec.sequential.states import WHOLE, keep_log, last_loss, last_whole


def test_the_newest_whole_state_counts_and_half_ones_are_removed(tmp_path):
    for step, whole in ((2, True), (10, True), (12, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if whole:
            (folder / WHOLE).touch()
    found = last_whole(tmp_path)
    assert found is not None
    assert found.name == "checkpoint-10"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-2"]


def test_without_a_whole_state_there_is_none(tmp_path):
    assert last_whole(tmp_path) is None
    assert last_whole(tmp_path / "nowhere") is None


def test_steps_that_are_taken_again_and_half_lines_leave_the_log(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "loss": 1.0}\n{"step": 4, "lo'
    )
    keep_log(log, 2)
    assert log.read_text() == '{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n'
    keep_log(tmp_path / "none.jsonl", 2)
    assert not (tmp_path / "none.jsonl").exists()


def test_the_loss_at_the_end_is_the_mean_of_the_last_tenth(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text("".join(f'{{"step": {n}, "loss": {n}.0}}\n' for n in range(1, 21)))
    assert last_loss(log) == 19.5
    assert math.isnan(last_loss(tmp_path / "none.jsonl"))
