"""What lies on the disk of a `prismrec.serving.index`: a table of LanceDB with two indexed columns."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prismrec.base.errors import MissingExtraError
from prismrec.serving.engine import Snapshot
from prismrec.serving.products import unit_vectors

if TYPE_CHECKING:
    from lancedb.table import Table

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]

VECTOR, UNIT = "vector", "unit"
"""Columns: vectors divided by the longest one's length, and each divided by its own."""

_BLOCK = 1 << 16


@dataclass(frozen=True, eq=False)
class Candidates:
    """What an index names.

    Parameters
    ----------
    rows
        In no order.
    rest
        No other row of the parts that were looked into has a higher product than this, but for rounding;
        minus infinity: there is no other.
    """

    rows: Places
    rest: float


class Column:
    """A column of the table with its index.

    Parameters
    ----------
    table
        As `write` gives it.
    name
        `VECTOR` or `UNIT`.
    parts
        Number of parts of the index.
    """

    def __init__(self, table: "Table", name: str, parts: int) -> None:
        self._table = table
        self._name = name
        self.parts = parts
        self.probes = 1
        self.recall = 0.0

    def build(self) -> None:
        """Make the index."""
        from lancedb.index import IvfFlat

        # Vectors as they are: an index of shortened ones would be smaller, and would miss some at any effort.
        plan = IvfFlat(distance_type="dot", num_partitions=self.parts)
        self._table.create_index(self._name, config=plan, replace=True)

    def candidates(self, query: Floats, n: int, effort: float = 1.0) -> Candidates:
        """Return rows with the highest products, at most n.

        Parameters
        ----------
        query
            Shape ``(d,)``, of length 1.
        n
            How many.
        effort
            How many times as many parts as usual (`probes`) are looked into.
        """
        probes = min(self.parts, math.ceil(self.probes * effort))
        asked: Any = self._table.search(query, vector_column_name=self._name)
        asked = asked.distance_type("dot").nprobes(probes).limit(n)
        # Without "_distance" LanceDB writes a warning to the log, each time.
        found = asked.select(["row", "_distance"]).to_arrow()
        rows = found["row"].to_numpy()
        # LanceDB's distance is 1 - product.
        rest = 1.0 - float(found["_distance"].to_numpy().max()) if len(rows) >= n else -math.inf
        return Candidates(rows, rest)


def write(snapshot: Snapshot[Any], rows: Places, longest: float, folder: Path) -> "Table":
    """Write the vectors of some rows into a table, without a second copy of all of them in memory.

    Parameters
    ----------
    snapshot
        Where they are from.
    rows
        Which.
    longest
        Length of the longest vector.
    folder
        Where the table is made.

    Raises
    ------
    MissingExtraError
        If LanceDB is not installed.
    """
    try:
        import lancedb
    except ImportError:
        raise MissingExtraError("lancedb", "serve", "Search by an index") from None
    kind = pa.list_(pa.float32(), snapshot.dim)
    schema = pa.schema([("row", pa.int64()), (VECTOR, kind), (UNIT, kind)])
    reader = pa.RecordBatchReader.from_batches(schema, _batches(snapshot, rows, longest, schema))
    return lancedb.connect(folder).create_table("items", reader)


def _batches(
    snapshot: Snapshot[Any], rows: Places, longest: float, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    for first in range(0, len(rows), _BLOCK):
        some = rows[first : first + _BLOCK]
        vectors = snapshot.vectors(some)
        # LanceDB's distance is 1 - product in float32: products far from 1 would lose their last digits.
        columns = (vectors / np.float32(longest), unit_vectors(vectors))
        arrays = [pa.FixedSizeListArray.from_arrays(one.ravel(), snapshot.dim) for one in columns]
        yield pa.record_batch([pa.array(some), *arrays], schema=schema)
