"""Search among the store's vectors: exact, and from a size on by an index whose recall is measured."""

import math
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prismrec.base.errors import InputError
from prismrec.base.exact import ItemMatrix
from prismrec.evaluation.ranking import tie_order, top_k
from prismrec.serving.store_rows import vector_field
from prismrec.serving.store_table import StoreTable

if TYPE_CHECKING:
    from lancedb.table import Table

Floats = npt.NDArray[np.float32]
Found = tuple[tuple[str, float], ...]
"""Item ids with their scores, best first."""

_BLOCK = 1 << 16
# As many allowed items as are fetched by their ids, rather than looked for among all.
_FEW = 1000
# So many times what is wanted is asked of the index where not all items are allowed, at first and at most.
_MORE = 4
_MOST = 4096


class VectorSearch:
    """Items by the scalar product of their vector with another, among those with a vector of its size.

    Parameters
    ----------
    table
        The store's items.
    index_from
        From so many rows on an index is used, if there is one.
    """

    def __init__(self, table: StoreTable, index_from: int) -> None:
        self._table = table
        self._index_from = index_from
        self._held: tuple[int, str, list[str], ItemMatrix] | None = None
        self._probes: dict[str, int] = {}
        for index in table.handle.list_indices():
            for column in index.columns:
                # Until it is tuned: a quarter of the parts.
                self._probes[column] = max(1, self._parts() // 4)

    def search(self, vector: Floats, k: int, allowed: AbstractSet[str] | None) -> Found:
        """Return the best k of the items that are allowed (None: all); fewer where there are fewer."""
        column = _column(vector)
        if k < 1:
            raise InputError(f"K = {k} is below 1.")
        if allowed is not None and len(allowed) <= _FEW:
            return self._among(column, vector, k, allowed)
        if not self.uses_index(len(vector)):
            return self.exact(vector[None, :], k, allowed)[0]
        found = self._by_index(column, vector, k, allowed)
        return found if len(found) == k else self.exact(vector[None, :], k, allowed)[0]

    def exact(self, vectors: Floats, k: int, allowed: AbstractSet[str] | None = None) -> list[Found]:
        """Return the best k items for each of several vectors, shape ``(q, d)``."""
        best: list[list[tuple[float, str]]] = [[] for _ in vectors]
        for ids, matrix in self._blocks(_column(vectors[0])):
            _merge(best, vectors, k, ids, matrix, allowed)
        return [tuple((name, -score) for score, name in found) for found in best]

    def uses_index(self, dim: int) -> bool:
        """Whether vectors of a size are searched by an index."""
        return vector_field(dim).name in self._probes and self._rows() >= self._index_from

    def build(self, queries: Floats, k: int, recall: float) -> float:
        """Make the index, and look into as many of its parts as the recall takes; return the recall.

        Below the size from which on it is used nothing is made: exact search has recall 1.
        """
        from lancedb.index import IvfFlat

        column = _column(queries[0])
        if self._rows() < self._index_from:
            return 1.0
        parts = self._parts()
        # Vectors as they are: an index of shortened ones would be smaller, and would miss some at any effort.
        plan = IvfFlat(distance_type="dot", num_partitions=parts)
        self._table.write(lambda table: table.create_index(column, config=plan, replace=True))
        probes = max(1, parts // 32)
        while True:
            self._probes[column] = probes
            found = self.recall(queries, k)
            if found >= recall or probes >= parts:
                return found
            probes = min(parts, 2 * probes)

    def recall(self, queries: Floats, k: int) -> float:
        """Return the mean share of the exact best k that search finds, ties aside; 1 for exact search."""
        if not self.uses_index(queries.shape[1]):
            return 1.0
        column = _column(queries[0])
        shares = []
        for query, best in zip(queries, self.exact(queries, k), strict=True):
            found = self._by_index(column, query, k, None)
            shares.append(sum(score >= best[-1][1] for _, score in found) / len(best) if best else 1.0)
        return float(np.mean(shares))

    def _rows(self) -> int:
        return self._table.handle.count_rows()

    def _parts(self) -> int:
        return max(1, math.isqrt(self._rows()))

    def _by_index(self, column: str, vector: Floats, k: int, allowed: AbstractSet[str] | None) -> Found:
        """Return what the index finds, scored exactly; fewer than k where it does not find enough."""
        asked, probes = k, self._probes[column]
        if allowed is not None:
            # Where fewer are allowed, their best lie farther off.
            asked, probes = _MORE * k, math.ceil(probes * max(1, self._rows() / len(allowed)))
        while True:
            table = self._table.found(partial(_ask, column, vector, probes, asked))
            found = _best_of(table, column, vector, k, allowed)
            if len(found) == k or len(table) < asked or asked >= _MOST:
                return found
            asked *= _MORE

    def _among(self, column: str, vector: Floats, k: int, allowed: AbstractSet[str]) -> Found:
        """Search among a few items, fetched by their ids."""
        from lancedb.expr import col

        if not allowed or column not in self._table.schema.names:
            return ()
        table = self._table.table(["item_id", column], col("item_id").isin(sorted(allowed)))
        return _best_of(table, column, vector, k, None)

    def _blocks(self, column: str) -> Iterator[tuple[list[str], ItemMatrix]]:
        """Yield all vectors of a column; those of a small table stay in memory until it changes."""
        if column not in self._table.schema.names:
            return
        if self._rows() >= self._index_from:
            for batch in self._table.read(["item_id", column], rows=_BLOCK):
                yield _matrix(pa.Table.from_batches([batch]), column)
            return
        version, held = self._table.version, self._held
        if held is None or held[:2] != (version, column):
            held = self._held = (version, column, *_matrix(self._table.table(["item_id", column]), column))
        yield held[2], held[3]


def _ask(column: str, vector: Floats, probes: int, n: int, table: "Table") -> pa.Table:
    query: Any = table.search(vector, vector_column_name=column)
    query = query.distance_type("dot").nprobes(probes).limit(n)
    return query.select(["item_id", column]).to_arrow()


def _column(vector: Floats) -> str:
    return str(vector_field(len(vector)).name)


def _matrix(table: pa.Table, column: str) -> tuple[list[str], ItemMatrix]:
    """Return ids and vectors of the rows that have a vector."""
    table = table.filter(table[column].is_valid())
    ids: list[str] = table["item_id"].to_pylist()
    width = table.schema.field(column).type.list_size
    # A copy: Arrow gives what is not to be written to, which torch warns of.
    flat = np.array(table[column].combine_chunks().flatten())
    return ids, ItemMatrix.of(flat.reshape(len(ids), width), tie_order(ids))


def _best_of(table: pa.Table, column: str, vector: Floats, k: int, allowed: AbstractSet[str] | None) -> Found:
    best: list[list[tuple[float, str]]] = [[]]
    _merge(best, vector[None, :], k, *_matrix(table, column), allowed)
    return tuple((name, -score) for score, name in best[0])


def _merge(
    best: list[list[tuple[float, str]]],
    vectors: Floats,
    k: int,
    ids: Sequence[str],
    matrix: ItemMatrix,
    allowed: AbstractSet[str] | None,
) -> None:
    """Take the best of a block into lists of the best so far: negative scores with ids, ascending."""
    if allowed is not None:
        chosen = np.flatnonzero([name in allowed for name in ids])
        ids, matrix = [ids[row] for row in chosen.tolist()], matrix.take(chosen)
    if not ids:
        return
    found, scores = top_k(np.ascontiguousarray(vectors, dtype=np.float32), matrix, min(k, len(ids)))
    for lists, rows, values in zip(best, found.tolist(), scores.tolist(), strict=True):
        # A score does not depend on the block it is computed in, so lists of several can be put together.
        lists[:] = sorted([*lists, *((-v, ids[r]) for r, v in zip(rows, values, strict=True))])[:k]
