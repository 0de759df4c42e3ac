"""Search by an index where there are very many items: it names candidates, the snapshot scores them.

An `ItemIndex` covers the rows that a snapshot had when it was built; rows that came later are always looked
at beside its candidates, and rows that were hidden since are passed over. Scores are the snapshot's own, ties
go by id. What the index misses is what lies in the parts that it does not look into: that share is measured
against exact search, and as many parts are looked into as the wanted recall takes. With all of them lists are
those of exact search, to the last place.
"""

import logging
import math
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import ConfigError
from prismrec.serving.engine import Among, Snapshot
from prismrec.serving.index_table import UNIT, VECTOR, Candidates, Column, write
from prismrec.serving.products import SHORTEST
from prismrec.serving.store_home import writing

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]
Found = tuple[Places, Floats]
"""Rows and scores, best first."""

_LOG = logging.getLogger(__name__)

_LEAST_SHARE = 0.1
# Where more than this share of the rows is asked for, looking at all of them is as quick.
_MOST_SHARE = 0.25
_MORE = 4


class Stopped(Exception):  # noqa: N818  # nothing went wrong
    """An index is not wanted any more while it is built."""


@dataclass(frozen=True)
class IndexPlan:
    """When items are searched by an index, and how well.

    Parameters
    ----------
    start
        Ranked items from which on it is used.
    recall
        Share of the exact best `k` that it has to find, on average; 1: all.
    k
        Length of the lists by which the recall is measured.
    samples
        Number of these lists.

    Raises
    ------
    ConfigError
        If one of them is out of its bounds.
    """

    start: int = 1_000_000
    recall: float = 0.98
    k: int = 50
    samples: int = 200

    def __post_init__(self) -> None:
        if min(self.start, self.k, self.samples) < 1 or not 0.0 < self.recall <= 1.0:
            raise ConfigError(f"{self} cannot be.", "Numbers are 1 or more, the recall above 0 and up to 1.")


@dataclass(frozen=True, eq=False)
class _Question:
    """What is searched for, by whichever way.

    Parameters
    ----------
    query
        What the index is asked with: of length 1, shape ``(d,)``.
    scale
        By what the index's products have to be multiplied to give scores.
    k
        How many.
    allowed
        As for `Snapshot.top`.
    hidden
        How many rows may be found by the index and not be listed, `allowed` aside.
    find
        Searches exactly, among some rows; None: among all.
    """

    query: Floats
    scale: float
    k: int
    allowed: Mask | None
    hidden: int
    find: Callable[[Among | None], Found]


class ItemIndex:
    """An index of a snapshot's rows, in a folder for temporary files. Safe to use from several threads.

    Made by `ItemIndex.of`. The folder is removed by `close`, or when nobody holds the index any more, and at
    the latest when the process ends.

    Parameters
    ----------
    snapshot
        What is covered: the rows that are ranked.
    folder
        An empty folder; from now on it is the index's.
    k
        Length of a usual list.
    """

    def __init__(self, snapshot: Snapshot[Any], folder: Path, k: int) -> None:
        self._end = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        # An index that waits for its last request must not keep the memory of rows that are gone.
        self._lineage = weakref.ref(snapshot.lineage)
        self._longest = max(snapshot.longest, SHORTEST)
        self._ranked = np.flatnonzero(snapshot.ranked)
        self._k = k
        self.folder = folder
        self.rows = snapshot.size
        self.broken = False
        with writing(str(folder)):
            table = write(snapshot, self._ranked, self._longest, folder)
        parts = max(1, math.isqrt(len(self._ranked)))
        self.by_vector, self.by_unit = Column(table, VECTOR, parts), Column(table, UNIT, parts)

    @staticmethod
    def of(
        snapshot: Snapshot[Any], users: Floats, plan: IndexPlan, stop: threading.Event | None = None
    ) -> "ItemIndex":
        """Build an index, and look as far into it as the recall takes.

        Parameters
        ----------
        snapshot
            With at least one ranked row.
        users
            Vectors by which the recall is measured, shape ``(q, d)``; none: items' own.
        plan
            What is wanted. Of users and of items that many are drawn, always the same ones.
        stop
            When it is set, building ends.

        Raises
        ------
        MissingExtraError
            If LanceDB is not installed.
        StorageError
            If the disk refuses.
        Stopped
            If `stop` was set.
        """
        stop = stop or threading.Event()
        with writing("The folder for temporary files (TMPDIR)"):
            folder = Path(tempfile.mkdtemp(prefix="prismrec-index-"))
        try:
            index = ItemIndex(snapshot, folder, plan.k)
            for column in (index.by_vector, index.by_unit):
                _go_on(stop)
                with writing(str(folder)):
                    column.build()
            items = index._ranked[sampled(len(index._ranked), plan.samples)]
            vectors = users[sampled(len(users), plan.samples)] if len(users) else snapshot.vectors(items)
            lists = [index._of_vector(snapshot, one, plan.k) for one in vectors]
            _tune(index.by_vector, lists, index.rows, plan, stop)
            similar = [index._of_row(snapshot, row, plan.k) for row in items.tolist()]
            _tune(index.by_unit, similar, index.rows, plan, stop)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return index

    @property
    def recall(self) -> float:
        """Share of the exact best that is found, as measured: for users or for items, whichever is less."""
        return min(self.by_vector.recall, self.by_unit.recall)

    def covers(self, snapshot: Snapshot[Any]) -> bool:
        """Whether a snapshot's first rows are those of the index."""
        return snapshot.lineage is self._lineage() and snapshot.size >= self.rows

    def close(self) -> None:
        """Remove the folder. Whoever still has the index is answered by exact search."""
        self.broken = True
        self._end()

    def top(
        self,
        snapshot: Snapshot[Any],
        vector: Floats,
        k: int,
        allowed: Mask | None = None,
        excluded: Sequence[int] | Places = (),
    ) -> Found | None:
        """Find the rows with the highest scalar products, as `Snapshot.top`.

        Returns
        -------
        tuple or None
            k rows and their scores; None where only exact search will do: where the snapshot is not an heir
            of the index's, few rows are allowed, very many are asked for, fewer than k are found, or the
            index's files are gone.
        """
        if vector.shape != (snapshot.dim,):
            return None
        return self._search(self.by_vector, snapshot, self._of_vector(snapshot, vector, k, allowed, excluded))

    def similar(
        self,
        snapshot: Snapshot[Any],
        row: int,
        k: int,
        allowed: Mask | None = None,
        excluded: Sequence[int] | Places = (),
    ) -> Found | None:
        """Find the other rows that point the same way as one, as `Snapshot.similar`; else as `top`."""
        return self._search(self.by_unit, snapshot, self._of_row(snapshot, row, k, allowed, excluded))

    def _of_vector(
        self,
        snapshot: Snapshot[Any],
        vector: Floats,
        k: int,
        allowed: Mask | None = None,
        excluded: Sequence[int] | Places = (),
    ) -> _Question:
        def find(among: Among | None) -> Found:
            return snapshot.top(vector, k, allowed, excluded, among)

        query, length = _unit(vector)
        return _Question(query, length * self._longest, k, allowed, len(excluded), find)

    def _of_row(
        self,
        snapshot: Snapshot[Any],
        row: int,
        k: int,
        allowed: Mask | None = None,
        excluded: Sequence[int] | Places = (),
    ) -> _Question:
        def find(among: Among | None) -> Found:
            return snapshot.similar(row, k, allowed, excluded, among)

        # The row itself is hidden, too.
        return _Question(_unit(snapshot.vector(row))[0], 1.0, k, allowed, len(excluded) + 1, find)

    def _search(self, column: Column, snapshot: Snapshot[Any], asked: _Question) -> Found | None:
        # What cannot be asked at all is left to exact search, which says so.
        if self.broken or asked.k < 1 or not self.covers(snapshot) or not np.isfinite(asked.query).all():
            return None
        mask = snapshot.ranked if asked.allowed is None else snapshot.ranked & asked.allowed
        share = np.count_nonzero(mask[: self.rows]) / len(self._ranked)
        if share < _LEAST_SHARE:
            return None
        depth = (asked.k + asked.hidden) / share
        n = _enough(depth)
        # The deeper a list reaches, the farther off its last ones lie. The power was found by trial: so
        # long lists and those of a fifth of the items are as good as usual ones (benchmarks/bench_index.py).
        effort = max(1.0, depth / self._k) ** (1 / 3)
        error = 4 * (snapshot.dim + 16) * 2.0**-24
        while n <= len(self._ranked) * _MOST_SHARE:
            named = self._candidates(column, asked.query, n, effort)
            if named is None:
                return None
            rows, scores = asked.find(Among(named.rows, self.rows))
            # Else a row that was not named may be as good as the last one of the list.
            if len(rows) == asked.k and scores[-1] > (named.rest + error) * asked.scale:
                return rows, scores
            if named.rest == -math.inf:
                return None
            n *= _MORE
        return None

    def _candidates(self, column: Column, query: Floats, n: int, effort: float) -> Candidates | None:
        try:
            return column.candidates(query, n, effort)
        except Exception as error:
            # Folders for temporary files are cleared at times; no answer may depend on that.
            if not self.broken:
                self.broken = True
                problem = f"{self.folder}: cannot be read any more; search is exact until it is built anew."
                fields = {"failed": type(error).__name__, "problem": problem, "rows": self.rows}
                _LOG.error("index", extra={"fields": fields})
            return None


def sampled(n: int, wanted: int) -> Places:
    """Draw some of n rows, always the same ones, ascending; all of them where there are not more."""
    if n <= wanted:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, wanted, replace=False))


def _tune(
    column: Column, lists: Sequence[_Question], rows: int, plan: IndexPlan, stop: threading.Event
) -> None:
    """Double the parts that are looked into until the recall is as wanted."""
    best = []
    for asked in lists:
        _go_on(stop)
        best.append(asked.find(None)[1])
    while True:
        column.recall = _measured(column, lists, best, rows, stop)
        if column.recall >= plan.recall or column.probes >= column.parts:
            return
        column.probes = min(column.parts, 2 * column.probes)


def _measured(
    column: Column, lists: Sequence[_Question], best: Sequence[Floats], rows: int, stop: threading.Event
) -> float:
    """Return the mean share of the exact best that is found among the candidates, ties aside."""
    shares = []
    for asked, scores in zip(lists, best, strict=True):
        _go_on(stop)
        if len(scores):
            named = column.candidates(asked.query, _enough(asked.k + asked.hidden))
            found = asked.find(Among(named.rows, rows))[1]
            shares.append(float((found >= scores[-1]).sum()) / len(scores))
    return float(np.mean(shares)) if shares else 1.0


def _enough(n: float) -> int:
    # More than are listed: that the last one of a list is better than what was not named shows that none is
    # missing.
    return math.ceil(1.25 * n) + 16


def _unit(vector: Floats) -> tuple[Floats, float]:
    """Return a vector divided by its length, and the length."""
    wide = vector.astype(np.float64)
    length = float(np.linalg.norm(wide))
    unit: Floats = (wide / max(length, SHORTEST)).astype(np.float32)
    return unit, length


def _go_on(stop: threading.Event) -> None:
    if stop.is_set():
        raise Stopped
