"""Several processes that train one model, against one process."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prismrec.base.errors import InputError
from prismrec.models.team import ALONE, Team
from prismrec.training.launch import launch
from prismrec.training.negatives import Negatives
from prismrec.training.processes import several, team_of

SCRIPT = Path(__file__).with_name("together.py")
PROCESSES = 2
# Noise drawn by each process for its own items: the same in distribution alone.
NOISY = {"mamex dropout"}


def _loaded():
    spec = importlib.util.spec_from_file_location("prismrec_tests_together", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_together = _loaded()
CASES, LOST, trained = _together.CASES, _together.LOST, _together.trained


def together(
    cases: list[str], out: Path, *, checkpoint: bool = False, dies: int = 0, apart: bool = False
) -> tuple[list[int], list[str]]:
    """Train cases in several processes; return how each of them ended, and what it said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    order = {"cases": cases, "out": str(out), "checkpoint": checkpoint, "dies": dies, "apart": apart}
    started = []
    for rank in range(PROCESSES):
        here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": PROCESSES, "LOCAL_WORLD_SIZE": PROCESSES}
        names = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(
                [sys.executable, str(SCRIPT), json.dumps(order)],
                env={**os.environ, **names, **{name: str(value) for name, value in here.items()}},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ends = [process.communicate(timeout=300) for process in started]
    codes = [process.returncode for process in started]
    if not dies and not apart:
        assert codes == [0, 0], ends
    return codes, [said for _, said in ends]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    out = tmp_path_factory.mktemp("both")
    together(list(CASES), out)
    return out


@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_go_the_way_of_one(both, name):
    number = list(CASES).index(name)
    weights = [load_file(both / f"{number}-{rank}.safetensors") for rank in range(PROCESSES)]
    logs = [json.loads((both / f"{number}-{rank}.json").read_text()) for rank in range(PROCESSES)]
    assert logs[0] == logs[1]
    for key, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][key], tensor, rtol=0, atol=0)
    model, epochs = trained(CASES[name])
    assert len(epochs) == len(logs[0])
    for one, two in zip(epochs, logs[0], strict=True):
        for key, value in one.items():
            assert two[key] == pytest.approx(value, rel=0.3 if name in NOISY else 5e-4, abs=5e-4), key
    if name not in NOISY:
        for key, tensor in model.state().items():
            torch.testing.assert_close(weights[0][key], tensor, rtol=1e-2, atol=1e-3, msg=key)


def test_the_cases_are_divided_as_they_say():
    source_inputs = trained(CASES["lightgcn"])[0].inputs
    divided = {name: case.config.build(source_inputs).divides for name, case in CASES.items()}
    assert divided["bpr-mf"]
    assert divided["lightgcn bsam+"]
    assert not divided["vbpr whole"]
    assert not divided["mamex triplets"]


def test_a_process_that_is_killed_is_told_of_and_its_run_goes_on(tmp_path):
    codes, _ = together(["lightgcn"], tmp_path, checkpoint=True, dies=3)
    assert codes == [LOST, -9]
    written = (tmp_path / "checkpoint-0").stat().st_mtime_ns
    together(["lightgcn"], tmp_path, checkpoint=True)
    assert (tmp_path / "checkpoint-0").stat().st_mtime_ns > written
    log = json.loads((tmp_path / "0-0.json").read_text())
    _, epochs = trained(CASES["lightgcn"])
    assert len(log) == len(epochs) == 3
    for one, two in zip(epochs, log, strict=True):
        assert two == pytest.approx(one, rel=1e-3)


def test_processes_that_see_other_folders_do_not_train(tmp_path):
    (tmp_path / "0").mkdir()
    together(["lightgcn"], tmp_path / "0", checkpoint=True)
    codes, said = together(["lightgcn"], tmp_path, checkpoint=True, apart=True)
    assert codes[1] == 1
    assert "process 1 begins after epoch 0, the first one after 3" in said[1]


def test_one_process_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not several()
    assert team_of("cpu") == ALONE
    rows = torch.arange(6.0).reshape(3, 2)
    assert ALONE.whole(rows, 3) is rows
    assert ALONE.mean(rows) is rows
    assert ALONE.told(7) == 7
    state = torch.get_rng_state()
    with ALONE.apart():
        assert torch.equal(torch.get_rng_state(), state)


def test_shares_are_every_row_once():
    for n in (0, 1, 5, 6):
        rows = [row for rank in range(3) for row in range(n)[Team(rank, 3).share(n)]]
        assert rows == list(range(n))


def test_negatives_of_some_pairs_are_those_of_all(data):
    users = data.pairs.users
    starts, touched = data.pairs.by_user(data.inputs.n_users)
    sampler = Negatives(starts, touched, data.warm)
    every = sampler.draw(users, count=3, seed=5)
    places = torch.arange(1, len(users), 3).numpy()
    assert (sampler.draw(users[places], count=3, seed=5, places=places) == every[places]).all()
    assert (every[places] != sampler.draw(users[places], count=3, seed=5)).any()


def test_one_process_is_not_launched():
    with pytest.raises(InputError, match="--processes 2"):
        launch(["models"], 1)
