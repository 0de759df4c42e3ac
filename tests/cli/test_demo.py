from pathlib import Path

import pytest

from prismrec.cli import demo


def test_every_step_runs_and_again_on_the_same_folder(call, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = call("demo", "--out", out, "--items", 300, "--no-open", "--quiet", "--json")
    assert done.code == 0, done.stderr
    steps = {step["command"][1]: step for step in done.document["steps"]}
    assert set(steps) == {"ingest", "encode", "train", "evaluate", "add-items", "recommend"}
    assert steps["train"]["answer"]["model"] == "mamex"
    added = set(steps["add-items"]["answer"]["added"])
    assert len(added) >= 8
    (found,) = steps["recommend"]["answer"]["users"]
    assert found["items"]
    assert {row["item_id"] for row in found["items"]} <= added
    assert Path(done.document["report"]).read_text(encoding="utf-8")
    assert done.stderr == ""

    (out / "notes.txt").write_text("mine")
    (out / "raw" / "stale.txt").write_text("theirs")
    with pytest.MonkeyPatch.context() as patch:
        # The commands were executed above; here the folder is what matters.
        patch.setattr(demo, "_run", lambda words, answer: None)
        again = call("demo", "--out", out, "--items", 300, "--no-open")
    assert again.code == 0
    assert again.stdout.count("$ prismrec ") == 8
    assert f"$ prismrec train {out}/shop --model mamex" in again.stdout
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "raw" / "stale.txt").exists()


def test_a_foreign_folder_is_refused(call, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    done = call("demo", "--out", tmp_path, "--json")
    assert done.code == 3
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_step_that_fails_ends_the_demonstration_as_it_ended(
    call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_steps", lambda out, shop: [(["encode", str(out / "nothing")], "fails")])
    done = call("demo", "--out", tmp_path / "demo", "--items", 300, "-q")
    assert done.code == 3
    assert "nothing" in done.stderr
