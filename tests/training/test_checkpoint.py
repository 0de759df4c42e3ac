import pytest
import torch

from prismrec.base.errors import DamagedError, InputError
from prismrec.training.checkpoint import Checkpoint

TENSORS = {
    "model.users": torch.arange(6.0).reshape(2, 3),
    "model.layer.weight": torch.ones(2, 2, dtype=torch.float16),
    "best.users": torch.zeros(2, 3).T,
    "optimizer.users/step": torch.tensor(7.0),
}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "checkpoint.safetensors"
    Checkpoint(TENSORS, {"steps": 3, "history": {"epochs": [1, 2]}}).write(path, "print")
    found = Checkpoint.read(path, "print")
    assert found.numbers == {"steps": 3, "history": {"epochs": [1, 2]}}
    assert found.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype
    assert set(found.group("model")) == {"users", "layer.weight"}
    assert set(found.group("optimizer")) == {"users/step"}
    assert found.group("other") == {}


def test_none_is_none_and_a_leftover_is_not_read(tmp_path):
    (tmp_path / "checkpoint.safetensors.0123.partial").write_bytes(b"half")
    assert Checkpoint.read(tmp_path / "checkpoint.safetensors", "print") is None


def test_another_run_is_refused(tmp_path):
    Checkpoint(TENSORS, {}).write(tmp_path / "c", "mine")
    with pytest.raises(InputError, match="other settings"):
        Checkpoint.read(tmp_path / "c", "yours")


@pytest.mark.parametrize("keep", [0, 4, 60, -3])
def test_a_damaged_file_is_named(tmp_path, keep):
    path = tmp_path / "c"
    Checkpoint(TENSORS, {}).write(path, "mine")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedError, match="damaged"):
        Checkpoint.read(path, "mine")


def test_a_foreign_safetensors_file_is_damage(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "c")
    with pytest.raises(DamagedError):
        Checkpoint.read(tmp_path / "c", "mine")
