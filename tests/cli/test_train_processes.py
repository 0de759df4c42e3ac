"""`prismrec train --processes 2`, as it is typed."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

COMMAND = [sys.executable, "-c", "from prismrec.cli import main; main()", "train"]
LIGHT = ["--model", "lightgcn", "--split", "random-holdout", "--set", "penalty=squares"]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK")}


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=ENVIRONMENT,
    )


def member(parent: int, rank: int) -> psutil.Process:
    """Wait for a process of the team to be there."""
    while True:
        for child in psutil.Process(parent).children(recursive=True):
            try:
                if child.environ().get("RANK") == str(rank):
                    return child
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        time.sleep(0.05)


def test_two_processes_leave_the_run_that_one_leaves(shop, tmp_path) -> None:
    few = [*LIGHT, "--set", "training.epochs=2", "--json"]
    one = run(shop.data, *few, "--out", tmp_path / "one")
    two = run(shop.data, *few, "--out", tmp_path / "two", "--processes", 2)
    assert (one.returncode, two.returncode) == (0, 0), two.stderr
    # One document: of several processes one speaks.
    first, second = json.loads(one.stdout), json.loads(two.stdout)
    assert second["valid"]["best"] == pytest.approx(first["valid"]["best"], abs=2e-3)


def test_a_killed_process_ends_the_run_with_a_message_and_the_run_goes_on(shop, tmp_path) -> None:
    out = tmp_path / "run"
    endless = [str(shop.data), *LIGHT, "--set", "training.epochs=100000", "--out", str(out)]
    started = subprocess.Popen(
        [*COMMAND, *endless, "--processes", "2"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    member(started.pid, 1).send_signal(signal.SIGKILL)
    _, said = started.communicate(timeout=120)
    assert started.returncode == 8, said
    assert "Process 1 of 2 was ended by SIGKILL" in said
    assert "the last checkpoint" in said
    done = run(shop.data, *LIGHT, "--set", "training.epochs=1", "--out", out, "--processes", 2)
    assert done.returncode == 0, done.stderr


def test_what_is_wrong_is_said_once(shop, tmp_path) -> None:
    closed = run(shop.data, "--model", "linear-map", "--out", tmp_path / "run", "--processes", 2)
    assert closed.returncode == 3
    assert closed.stderr.count("Error:") == 1
    assert "computed at once" in closed.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_who_ends_the_command_ends_its_processes(shop, tmp_path, how) -> None:
    endless = [str(shop.data), *LIGHT, "--set", "training.epochs=100000", "--out", str(tmp_path / "run")]
    started = subprocess.Popen(
        [*COMMAND, *endless, "--processes", "2"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    members = [member(started.pid, rank) for rank in (0, 1)]
    started.send_signal(how)
    started.wait(timeout=120)
    assert psutil.wait_procs(members, timeout=60)[1] == []
    if how == signal.SIGINT:
        _, said = started.communicate()
        assert started.returncode == 128 + signal.SIGINT, said
        assert "unexpectedly" not in said
