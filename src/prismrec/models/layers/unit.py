"""Content vectors of unit length, in one pass over memory."""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_LEAST = 1e-12


def unit_rows(vectors: Tensor, present: Tensor, centre: Tensor | None = None) -> Tensor:
    """Normalise rows; where a centre is given, subtract it from the unit rows and normalise again.

    Parameters
    ----------
    vectors
        Shape ``(n, dim)``.
    present
        Which rows exist, bool, shape ``(n,)``; the others come out as 0, whatever stands there.
    centre
        Shape ``(dim,)``.

    Returns
    -------
    Tensor
        float32, shape ``(n, dim)``.
    """
    if vectors.device.type == "cpu" and not vectors.requires_grad:
        shift = np.zeros(0, dtype=np.float32) if centre is None else centre.detach().numpy()
        found = np.empty(tuple(vectors.shape), dtype=np.float32)
        _unit_rows(vectors.float().numpy(), present.numpy(), shift, found)
        return torch.from_numpy(found)
    unit = functional.normalize(vectors.float(), dim=1, eps=_LEAST)
    if centre is not None:
        unit = functional.normalize(unit - centre, dim=1, eps=_LEAST)
    return torch.where(present.unsqueeze(1), unit, 0.0)


# One thread: beside torch's pool of threads a second one would take its cores from it.
@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _unit_rows(vectors: Any, present: Any, centre: Any, found: Any) -> None:
    dim = vectors.shape[1]
    for row in range(len(vectors)):
        if not present[row]:
            found[row] = 0.0
            continue
        total = np.float32(0.0)
        for column in range(dim):
            total += vectors[row, column] * vectors[row, column]
        scale = np.float32(1.0) / max(np.sqrt(total), np.float32(_LEAST))
        if len(centre) == 0:
            for column in range(dim):
                found[row, column] = vectors[row, column] * scale
            continue
        total = np.float32(0.0)
        for column in range(dim):
            found[row, column] = vectors[row, column] * scale - centre[column]
        # On its own, as a loop that sums must write to no array: see `prismrec.models.layers.routing`.
        for column in range(dim):
            total += found[row, column] * found[row, column]
        scale = np.float32(1.0) / max(np.sqrt(total), np.float32(_LEAST))
        for column in range(dim):
            found[row, column] *= scale
