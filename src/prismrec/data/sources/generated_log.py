"""The generated shop's customers: a planted preference model, and a log drawn from it.

A user's preference for an item is a dot product. The item's vector stacks an embedding of each of its
attributes, weighted by how much that attribute counts in the item's category: looks decide among T-shirts,
backpacks, vases and mugs, words among chairs, lamps and sneakers, sound among clocks, ukuleles and radios. So
no kind of content is the best one everywhere. The user's vector holds a taste for each of these dimensions;
users gather around a few personas.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from prismrec.base.progress import Progress
from prismrec.data.sources.generated_shop import (
    BRANDS,
    CATEGORIES,
    CLOSED,
    COLOURS,
    N_MATERIALS,
    N_SHADES,
    N_SHAPES,
    N_USES,
    N_VOICES,
    OPENED,
    PATTERNS,
    STYLES,
    Attributes,
    Stream,
    generator,
)

Floats = npt.NDArray[np.float64]

SHELF = 8_192
"""Up to so many items, every user chooses among all of them; above, among a shelf of about this size."""

USERS_PER_BLOCK = 128
LONGEST_HISTORY = SHELF // 4
SHORTEST_HISTORY = 3

_PERSONAS = 12
_ZIPF = 0.75
_LOOK = {"T-shirt": 1.7, "backpack": 1.7, "vase": 1.7, "mug": 1.7}
_WORD = {"chair": 1.7, "lamp": 1.7, "sneaker": 1.7}
_VOICE = {"clock": 2.1, "ukulele": 2.1, "radio": 2.1}
_SECONDARY = 0.45


@dataclass(frozen=True)
class Planted:
    """What the log was drawn from: the truth that a recommender can at best find.

    Parameters
    ----------
    attributes
        What the items really are, also where their content is missing.
    item_vectors
        Shape ``(items, d)``, float64.
    user_vectors
        Shape ``(users, d)``, float64.
    popularity
        Probability of an item in a purchase that follows no preference, shape ``(items,)``, sum 1.
    """

    attributes: Attributes
    item_vectors: Floats
    user_vectors: Floats
    popularity: Floats

    def preferences(self, users: npt.ArrayLike) -> Floats:
        """Return the preference of users for every item, popularity aside: shape ``(len(users), items)``."""
        return np.asarray(self.user_vectors[np.asarray(users)] @ self.item_vectors.T)

    def scores(self, users: npt.ArrayLike) -> Floats:
        """Return the true scores, shape ``(len(users), items)``.

        The softmax of a row is the distribution of the first item that a user takes by preference, so that
        no other ranking does better on average.
        """
        return self.preferences(users) + np.log(self.popularity)


def plant(attributes: Attributes, users: int, seed: int) -> Planted:
    """Draw item vectors, tastes and popularity."""
    chance = generator(seed, Stream.TASTES)
    vectors = _item_vectors(attributes, chance)
    tastes = _user_vectors(users, vectors.shape[1], chance)
    return Planted(attributes, vectors, tastes, _popularity(attributes, vectors, chance))


def _item_vectors(attributes: Attributes, chance: np.random.Generator) -> Floats:
    category = attributes.category.astype(np.int64)
    look, word, voice = (_weights(leads)[category] for leads in (_LOOK, _WORD, _VOICE))
    angle = 2 * np.pi * attributes.colour / len(COLOURS)
    log_price = np.log(attributes.price)
    count = np.maximum(np.bincount(category, minlength=len(CATEGORIES)), 1)
    usual = np.bincount(category, log_price, len(CATEGORIES)) / count
    return np.hstack(
        [
            np.eye(len(CATEGORIES))[category],
            (0.6 * look)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1),
            (0.35 * look * (attributes.shade - (N_SHADES - 1) / 2))[:, None],
            (0.9 * look)[:, None] * _embedding(len(PATTERNS), 3, chance)[attributes.pattern],
            (0.4 * look)[:, None]
            * _embedding(len(CATEGORIES) * N_SHAPES, 2, chance)[category * N_SHAPES + attributes.shape],
            (0.8 * word)[:, None] * _embedding(N_MATERIALS, 3, chance)[attributes.material],
            (0.7 * word)[:, None] * _embedding(N_USES, 3, chance)[attributes.use],
            (0.6 * word)[:, None] * _embedding(len(BRANDS), 3, chance)[attributes.brand],
            (0.4 * word * (log_price - usual[category]))[:, None],
            (0.4 * (word + voice))[:, None] * _embedding(len(STYLES), 2, chance)[attributes.style],
            (voice * attributes.has_sound)[:, None] * _embedding(N_VOICES, 3, chance)[attributes.voice],
        ]
    )


def _weights(leads: dict[str, float]) -> Floats:
    return np.array([leads.get(name, _SECONDARY) for name in CATEGORIES])


def _embedding(values: int, dim: int, chance: np.random.Generator) -> Floats:
    """Place values on a sphere around the origin, so that none is liked or disliked by all."""
    points = chance.normal(size=(values, dim))
    points -= points.mean(axis=0)
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True))


def _user_vectors(users: int, dim: int, chance: np.random.Generator) -> Floats:
    persona = chance.choice(_PERSONAS, size=users, p=chance.dirichlet(np.full(_PERSONAS, 4.0)))
    tastes = 0.8 * chance.normal(size=(_PERSONAS, dim))[persona] + 0.7 * chance.normal(size=(users, dim))
    # A user shops in a few categories: log of a mixture rather than a bell curve.
    n = len(CATEGORIES)
    mixture = 0.6 * chance.dirichlet(np.full(n, 0.25), _PERSONAS)[persona]
    mixture += 0.4 * chance.dirichlet(np.full(n, 0.3), users)
    tastes[:, :n] = np.log(mixture + 0.02)
    tastes[:, :n] -= tastes[:, :n].mean(axis=1, keepdims=True)
    return np.asarray(tastes)


def _popularity(attributes: Attributes, vectors: Floats, chance: np.random.Generator) -> Floats:
    # Some of what makes an item popular shows in its attributes (a pattern in fashion), most does not.
    fashion = vectors @ chance.normal(size=vectors.shape[1])
    fashion = (fashion - fashion.mean()) / max(float(fashion.std()), 1e-9)
    rank = np.empty(len(attributes))
    rank[np.argsort(-(0.8 * fashion + chance.normal(size=len(attributes))), kind="stable")] = np.arange(
        len(attributes)
    )
    on_sale = (CLOSED - attributes.released) / (CLOSED - OPENED)
    weight = (rank + 2.0) ** -_ZIPF * (0.3 + 0.7 * on_sale)
    return np.asarray(weight / weight.sum())


def draw_log(
    planted: Planted, mean_history: float, noise: float, seed: int, progress: Progress
) -> pl.DataFrame:
    """Draw who took what, and when.

    A user takes a number of items (three and a long tail) one after the other without putting any back, each
    with a probability proportional to ``popularity * exp(preference)`` among those left; a share `noise` of
    them is then drawn in the same way by popularity alone. For up to `SHELF` items this is exact. For more,
    each block of `USERS_PER_BLOCK` users is shown a shelf: every item stands there with a probability in
    proportion to its popularity (at most 1), and its weight is divided by that probability, so that one
    purchase follows the same distribution up to the shelf's sampling error. Memory is bounded by the block,
    plus the log itself.

    Parameters
    ----------
    planted
        What to draw from.
    mean_history
        Mean number of items per user (approximately: histories end at a quarter of the items).
    noise
        Share of interactions drawn from popularity.
    seed
        Seed.
    progress
        Told of every block of users.

    Returns
    -------
    DataFrame
        ``user_id``, ``item_id`` (String) and ``timestamp`` (Float64, whole seconds, after the item's release
        and before `CLOSED`), in the order of time. No pair stands twice.
    """
    users, items = len(planted.user_vectors), len(planted.attributes)
    chance = generator(seed, Stream.LOG)
    sizes = _history_lengths(users, mean_history, min(items // 4, LONGEST_HISTORY), chance)
    joined = OPENED + chance.random(users) ** 1.5 * 0.8 * (CLOSED - OPENED)
    user_parts, item_parts = [], []
    with progress.task("Drawing interactions", users) as task:
        for block, start in enumerate(range(0, users, USERS_PER_BLOCK)):
            members = np.arange(start, min(start + USERS_PER_BLOCK, users))
            chance_here = generator(seed, Stream.LOG, block + 1)
            rows, taken = _draw_block(planted, members, sizes[members], noise, chance_here)
            user_parts.append(members[rows].astype(np.int32))
            item_parts.append(taken.astype(np.int32))
            task.advance(len(members))
    user, item = np.concatenate(user_parts), np.concatenate(item_parts)
    available = np.maximum(planted.attributes.released[item], joined[user])
    time = np.floor(available) + 1.0 + np.floor(chance.random(len(user)) * (CLOSED - available - 2.0))
    order = np.lexsort((item, user, time))
    return pl.DataFrame(
        {
            "user_id": name_all("u", users, 4)[pl.Series(user[order])],
            "item_id": name_all("p", items, 5)[pl.Series(item[order])],
            "timestamp": time[order],
        }
    )


def name_all(prefix: str, count: int, digits: int) -> pl.Series:
    """Name things by number, all equally long, so that their order by name is that by number."""
    digits = max(digits, len(str(count - 1)))
    return pl.Series([f"{prefix}{number:0{digits}d}" for number in range(count)], dtype=pl.String)


def _history_lengths(
    users: int, mean: float, longest: int, chance: np.random.Generator
) -> npt.NDArray[np.int64]:
    sigma = 1.0
    tail = (mean - SHORTEST_HISTORY) * np.exp(sigma * chance.normal(size=users) - sigma**2 / 2)
    return np.minimum(SHORTEST_HISTORY + np.round(tail).astype(np.int64), longest)


def _draw_block(
    planted: Planted,
    members: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    noise: float,
    chance: np.random.Generator,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return rows of the block and item codes, one pair per interaction."""
    shelf, weight = _stock_shelf(planted.popularity, chance)
    by_whim = chance.binomial(sizes, noise)
    by_taste = sizes - by_whim
    # An exponential race: who arrives first at a rate equal to the weight has been drawn without replacement.
    liking = np.exp(planted.user_vectors[members] @ planted.item_vectors[shelf].T)
    shape = (len(members), len(shelf))
    arrival = chance.exponential(size=shape) / (weight * liking)
    rows, columns = _first(arrival, by_taste)
    arrival = chance.exponential(size=shape) / weight
    arrival[rows, columns] = np.inf
    more_rows, more_columns = _first(arrival, by_whim)
    return np.concatenate([rows, more_rows]), shelf[np.concatenate([columns, more_columns])]


def _stock_shelf(popularity: Floats, chance: np.random.Generator) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return item codes of a shelf and their weights.

    The Zipf exponent keeps the expected size above half of `SHELF`, far above `LONGEST_HISTORY`.
    """
    if len(popularity) <= SHELF:
        return np.arange(len(popularity)), popularity
    stands = np.minimum(popularity * SHELF, 1.0)
    shelf = np.flatnonzero(chance.random(len(popularity)) < stands)
    return shelf, popularity[shelf] / stands[shelf]


def _first(
    arrival: Floats, counts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows and columns of the ``counts[r]`` smallest entries of each row ``r``."""
    most = int(counts.max())
    if most == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    nearest = np.argpartition(arrival, most - 1, axis=1)[:, :most]
    rank = np.argsort(np.take_along_axis(arrival, nearest, axis=1), axis=1, kind="stable")
    nearest = np.take_along_axis(nearest, rank, axis=1)
    rows, places = np.nonzero(np.arange(most) < counts[:, None])
    return rows, nearest[rows, places]
