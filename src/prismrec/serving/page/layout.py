"""Where vectors stand in two dimensions: by the directions of largest variance, or by their neighbours."""

from typing import Any

import numpy as np
import numpy.typing as npt

from prismrec.base.exact import ItemMatrix, best
from prismrec.base.progress import SILENT

EDGE = 10_000
"""Coordinates are whole numbers from 0 to this."""

NEIGHBOURS = 15
"""By neighbours each item is tied to so many that are most like it."""

_WIDE = 1000
# On MovieLens small kernel ridge's two axes show 0.03 % of the variance: one spot. MAMEX's show 5 %, and of
# the ten films nearest to one 39 % have its genre; drawn by neighbours 32 % would (18 % by chance).
_LITTLE = 0.01
# Fewer than the graph has: the mean of many places is the middle of the map.
_BESIDE = 5

Floats = npt.NDArray[np.floating]
Axes = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


def project(vectors: Floats) -> tuple[Places, float | None]:
    """Return places by the two directions of largest variance (PCA), or by neighbours if those show nothing.

    Parameters
    ----------
    vectors
        ``(items, size)``.

    Returns
    -------
    places : array
        ``(items, 2)``, whole numbers from 0 to `EDGE`. Of PCA both axes are on the same scale, each in the
        middle; by neighbours they are as `by_neighbours` says.
    kept : float or None
        Share of the variance that the directions show; None by neighbours. It can be next to nothing where no
        item is like another.
    """
    flat, kept = _two_directions(vectors)
    # So little is shown of 200 items or more, never of a few.
    if kept < _LITTLE:
        found = by_neighbours(vectors)
        if found is not None:
            return found, None
    low, high = (flat.min(axis=0), flat.max(axis=0)) if len(flat) else (np.zeros(2), np.zeros(2))
    widest = float((high - low).max()) or 1.0
    placed = EDGE / 2 + (flat - (low + high) / 2) / widest * EDGE
    return _whole(placed), min(kept, 1.0)


def _two_directions(vectors: Floats) -> tuple[Axes, float]:
    n, size = vectors.shape
    flat = np.zeros((n, 2))
    axes = min(2, n - 1, size)
    if axes <= 0 or not np.ptp(vectors, axis=0).any():
        return flat, 1.0
    from sklearn.decomposition import PCA

    # Each of these gives the same at every call, down to the signs. A kernel model's vectors are as wide
    # as the catalogue is long: all their directions would take minutes, the first two take seconds.
    if min(n, size) > _WIDE:
        fitted = PCA(axes, svd_solver="arpack", random_state=0)
    else:
        fitted = PCA(axes, svd_solver="covariance_eigh" if n > size else "full")
        vectors = vectors.astype(np.float64)
    flat[:, :axes] = fitted.fit_transform(vectors)
    return flat, float(fitted.explained_variance_ratio_.sum())


def by_neighbours(vectors: Floats) -> Places | None:
    """Spread items out such that neighbours stand together: a regularised spectral embedding.

    The graph ties each item to the `NEIGHBOURS` with the largest cosine above 0, both ways. With its
    adjacency A, the degrees d and their mean m, the axes are the second and third eigenvector of

        (D + m)^-1/2 (A + m/n) (D + m)^-1/2,

    divided by the root of d + m (Zhang and Rohe, "Understanding regularized spectral clustering via graph
    conductance", 2018). Without m the axes would tell apart a handful of items tied to one another alone
    from all the others. Only the order along each axis is kept: some stand so far outside that all the others
    would be one spot.

    Measured on one thread of a Xeon with AMX, busy with other work: 9 seconds for kernel ridge on MovieLens
    small (9,741 items, 7,779 dimensions), 1.4 for 20,000 items of 256 dimensions, nearly all of it for the
    neighbours, whose cost grows as items times items times dimensions.

    Parameters
    ----------
    vectors
        ``(items, size)``; a row of zeros is like nothing and comes to stand somewhere in the middle.

    Returns
    -------
    array or None
        ``(items, 2)``, whole numbers from 0 to `EDGE`; None where there are fewer than four items, or no
        two of them are alike.

    Raises
    ------
    InputError
        If a vector is not finite.
    """
    n = len(vectors)
    if n < 4:
        return None
    own = np.arange(n + 1)
    found, alike = _most_alike(vectors, vectors, min(NEIGHBOURS, n - 1), own, own[:-1].astype(np.int32))
    tied = alike > 0
    if not tied.any():
        return None
    return _ordered(_axes(np.repeat(np.arange(n), tied.sum(axis=1)), found[tied], n))


def beside(vectors: Floats, others: Floats, places: Places) -> Places:
    """Place items among others that have places: in the mean of those most like them, by the cosine.

    Parameters
    ----------
    vectors
        Of the items to be placed, ``(items, size)``.
    others
        Of those that have places, ``(others, size)``.
    places
        ``(others, 2)``.

    Returns
    -------
    array
        ``(items, 2)``, whole numbers; the middle of all places for one that is like none of the others.

    Raises
    ------
    InputError
        If a vector is not finite.
    """
    none = np.zeros(len(vectors) + 1, dtype=np.int64)
    k = min(_BESIDE, len(others))
    found, alike = _most_alike(vectors, others, k, none, np.zeros(0, dtype=np.int32))
    weights = np.maximum(alike.astype(np.float64), 0)[:, :, None]
    total = weights.sum(axis=1)
    mean = (weights * places[found]).sum(axis=1) / np.where(total > 0, total, 1)
    return _whole(np.where(total > 0, mean, places.mean(axis=0)))


def _most_alike(
    vectors: Floats,
    others: Floats,
    k: int,
    masked_starts: npt.NDArray[np.int64],
    masked: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    units = _unit(vectors)
    matrix = ItemMatrix.of(units if others is vectors else _unit(others))
    with SILENT.task("neighbours", len(units)) as task:
        return best(units, matrix, k, masked_starts, masked, task)


def _unit(vectors: Floats) -> npt.NDArray[np.float32]:
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    return (vectors / np.where(lengths > 0, lengths, 1)[:, None]).astype(np.float32)


def _axes(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int32], n: int) -> Axes:
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import LinearOperator, eigsh

    one_way = coo_array((np.ones(len(rows)), (rows, columns)), shape=(n, n)).tocsr()
    ties = one_way.maximum(one_way.T)
    degrees = np.asarray(ties.sum(axis=1)).ravel()
    mean = degrees.mean()
    scale = 1 / np.sqrt(degrees + mean)

    def times(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        scaled = scale * x.ravel()
        return np.asarray(scale * (ties @ scaled + mean / n * scaled.sum()))

    operator = LinearOperator((n, n), matvec=times, dtype=np.float64)
    # Ascending; the last one is the same for all items but for their degrees.
    _, found = eigsh(operator, k=3, which="LA", v0=np.random.default_rng(0).normal(size=n))
    axes = found[:, [1, 0]] * scale[:, None]
    # A direction and its opposite are both right: the one item that is farthest out decides.
    return np.asarray(axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]]))


def _ordered(axes: Axes) -> Places:
    """Return the place of each number in the order of its column, from 0 to `EDGE`; equal ones share one."""
    from scipy.stats import rankdata

    # Items tied to the same ones differ in the last digits alone.
    rounded = np.round(axes / np.abs(axes).max(axis=0), 9)
    ranks = rankdata(rounded, axis=0) - 1
    return _whole(ranks / (len(axes) - 1) * EDGE)


def _whole(places: Axes) -> Places:
    return np.asarray(np.rint(places), dtype=np.int64)
