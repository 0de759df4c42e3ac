"""The nearest training items of an item, found exactly."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prismrec.base.exact import ItemMatrix, best
from prismrec.base.progress import SILENT
from prismrec.models.layers.kept import Kept


class NearestItems:
    """Searches among the training items' vectors, laid out once and kept until the vectors change.

    Neighbours are found exactly and the same on every machine (`prismrec.base.exact`); a matrix of all items
    against all is never made.
    """

    def __init__(self) -> None:
        self._searched: Kept[tuple[ItemMatrix, npt.NDArray[np.int64]]] = Kept()

    def __call__(
        self, asked: Tensor, table: Tensor, among: Tensor, k: int, own: npt.NDArray[np.int32] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Find neighbours.

        Parameters
        ----------
        asked
            Vectors whose neighbours are looked for, shape ``(n, d)``; of unit length, or 0.
        table
            Vectors of all items, shape ``(n_items, d)``, likewise.
        among
            Which items may be found, bool, shape ``(n_items,)``.
        k
            How many.
        own
            For each of `asked`, its place among those that may be found, which it must not find itself,
            shape ``(n,)``; None: nothing is hidden.

        Returns
        -------
        tuple of Tensor
            Codes, int64, and cosines, float32, of shape ``(n, k')``, the nearest first: k' is k or, if fewer
            may be found, their number. Cosines that are not above 0 stand as 0, with any code.
        """
        matrix, codes = self._searched.of((table, among), lambda: _laid_out(table, among))
        k = min(k, len(codes))
        if k < 1 or len(asked) == 0:
            return torch.zeros(len(asked), max(k, 0), dtype=torch.int64), torch.zeros(len(asked), max(k, 0))
        vectors = asked.detach().float().cpu().numpy()
        starts = np.zeros(len(vectors) + 1, dtype=np.int64) if own is None else np.arange(len(vectors) + 1)
        hidden = np.zeros(0, dtype=np.int32) if own is None else own
        with SILENT.task("neighbours", len(vectors)) as task:
            found, cosines = best(vectors, matrix, k, starts, hidden, task)
        cosines = np.where(found >= 0, np.maximum(cosines, 0.0), 0.0).astype(np.float32)
        return torch.from_numpy(codes[np.maximum(found, 0)]), torch.from_numpy(cosines)


def _laid_out(table: Tensor, among: Tensor) -> tuple[ItemMatrix, npt.NDArray[np.int64]]:
    codes = torch.nonzero(among)[:, 0]
    return ItemMatrix.of(table[codes].detach().float().cpu().numpy()), codes.cpu().numpy()
