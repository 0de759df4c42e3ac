"""Checkpoints: everything that the next epoch depends on, in one file that is whole or not there.

The file is a safetensors file: tensors, and numbers as JSON in its header. No code is stored or run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prismrec.base.errors import DamagedError, InputError
from prismrec.base.files import atomic_path


@dataclass(frozen=True)
class Checkpoint:
    """A training run between two epochs.

    Parameters
    ----------
    tensors
        By name: ``model.*``, ``best.*``, ``optimizer.<parameter>.<moment>``.
    numbers
        JSON-able: epochs done, steps done, history.
    """

    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with ``prefix.``, without it."""
        start = f"{prefix}."
        return {n.removeprefix(start): t for n, t in self.tensors.items() if n.startswith(start)}

    def write(self, path: Path, fingerprint: str) -> None:
        """Write it atomically.

        Parameters
        ----------
        path
            Destination.
        fingerprint
            Digest of settings and data: a checkpoint is only good for the run that wrote it.
        """
        header = {"fingerprint": fingerprint, "numbers": json.dumps(dict(self.numbers))}
        with atomic_path(path) as temporary:
            save_file({n: t.detach().cpu().contiguous() for n, t in self.tensors.items()}, temporary, header)

    @staticmethod
    def read(path: Path, fingerprint: str) -> "Checkpoint | None":
        """Read one; None if there is none.

        Raises
        ------
        InputError
            If it was written with other settings or data.
        DamagedError
            If the file is damaged.
        """
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            numbers = json.loads(header["numbers"])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise DamagedError(
                f"{path}: the checkpoint is damaged ({error}).", "Delete it to train from the start."
            ) from error
        if header.get("fingerprint") != fingerprint:
            raise InputError(
                f"{path}: the checkpoint was written with other settings, data or seed.",
                "Choose another --out folder, or delete the checkpoint to train from the start.",
            )
        return Checkpoint(tensors, numbers)
