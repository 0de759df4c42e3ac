"""Some people for the report: what they liked, what they are shown, what of it was right."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.evaluation.ranking import top_k
from prismrec.evaluation.report_inputs import ItemCard, UserExample
from prismrec.recommender.evaluate import OpenedPart
from prismrec.recommender.insights import categories
from prismrec.recommender.part_ranking import Ranking
from prismrec.recommender.recommender import Recommender

_SEED = 0
_LOOKED_AT = 2000
_ENOUGH_HISTORY = 5
_SHOWN = 8
_BECAUSE = 3

Rows64 = npt.NDArray[np.int64]


def choose_examples(
    recommender: Recommender, opened: OpenedPart, n: int
) -> tuple[list[UserExample], list[str]]:
    """Choose people and draw up what the report shows of them.

    They are drawn at random with a fixed seed among those with enough training interactions, half of them
    with a hit in their list and half without, as far as there are.

    Parameters
    ----------
    recommender
        Who recommends.
    opened
        The part whose positives mark hits; lists are of the candidates of its first mode.
    n
        How many people.

    Returns
    -------
    examples
        At most n.
    notes
        How they were chosen, in words; empty without examples.
    """
    if n < 1:
        return [], []
    ranking = Ranking.of(opened.split, opened.pairs, opened.modes[0], opened.part)
    k = min(_SHOWN, len(ranking.candidates))
    rows, enough = _drawn(recommender, ranking)
    lists = _lists(recommender, ranking, rows, k)
    hit = np.array([_hits(ranking, row, shown).any() for row, shown in zip(rows, lists, strict=True)])
    chosen = _mixed(hit, n)
    maker = _Cards(recommender)
    people = [_person(maker, ranking, int(rows[i]), lists[i]) for i in chosen]
    who = f"at least {_ENOUGH_HISTORY} training interactions" if enough else "training interactions"
    note = (
        f"The people shown were drawn at random (seed {_SEED}) among {len(rows):,} with {who} and something "
        f"to find in the {opened.part} part, {int(hit[chosen].sum())} with a hit among their first {k} and "
        f"{int((~hit[chosen]).sum())} without: they show how lists look, not how often they are right. Of a "
        f"history the {_SHOWN} items nearest to the person's taste are shown."
    )
    return people, [note] if people else []


def _drawn(recommender: Recommender, ranking: Ranking) -> tuple[Rows64, bool]:
    """Rows of the ranking in random order: users with enough history, or with any if there are none."""
    degrees = np.bincount(recommender.split.train.users, minlength=len(recommender.split.users))
    own = degrees[ranking.users]
    order = np.random.default_rng(_SEED).permutation(len(ranking.users))
    enough = order[own[order] >= _ENOUGH_HISTORY]
    if len(enough):
        return enough[:_LOOKED_AT], True
    return order[own[order] > 0][:_LOOKED_AT], False


def _lists(recommender: Recommender, ranking: Ranking, rows: Rows64, k: int) -> npt.NDArray[np.int32]:
    masked = None if ranking.masked is None else ranking.masked.take(rows)
    vectors = recommender.all_user_vectors()[ranking.users[rows]]
    items = ranking.matrix(recommender.items.vectors[ranking.candidates])
    found, _ = top_k(vectors, items, k, masked)
    return found


def _hits(ranking: Ranking, row: int, shown: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    starts = ranking.positives.starts
    hits: npt.NDArray[np.bool_] = np.isin(shown, ranking.positives.items[starts[row] : starts[row + 1]])
    return hits


def _mixed(hit: npt.NDArray[np.bool_], n: int) -> Rows64:
    """Half with a hit and half without, filled up from the other side, in turn."""
    with_hit, without = np.flatnonzero(hit), np.flatnonzero(~hit)
    wanted = max((n + 1) // 2, n - len(without))
    first, second = with_hit[:wanted], without[: max(n - min(wanted, len(with_hit)), 0)]
    places = np.concatenate([np.arange(len(first)) * 2, np.arange(len(second)) * 2 + 1])
    mixed: Rows64 = np.concatenate([first, second])[np.argsort(places, kind="stable")]
    return mixed


def _person(maker: "_Cards", ranking: Ranking, row: int, shown: npt.NDArray[np.int32]) -> UserExample:
    recommender = maker.recommender
    name = recommender.split.users.ids[int(ranking.users[row])]
    history = recommender.item_ids.codes(recommender.history(name)).astype(np.int64)
    taste, _ = recommender.user_vector(name)
    nearest = history[np.argsort(-(recommender.items.vectors[history] @ taste), kind="stable")]
    places = shown[shown >= 0]
    hits = _hits(ranking, row, places)
    return UserExample(
        f"User {name}",
        [maker.card(int(item)) for item in nearest[:_SHOWN]],
        [
            maker.recommended(int(item), history.tolist(), bool(is_hit))
            for item, is_hit in zip(ranking.candidates[places], hits, strict=True)
        ],
        len(history),
    )


class _Cards:
    """Makes cards; pictures are read for those items alone that are shown."""

    def __init__(self, recommender: Recommender) -> None:
        self.recommender = recommender
        self._titles = recommender.catalog.titles()
        self._categories = categories(recommender.catalog)
        self._pictures = recommender.catalog.media.get("image")

    def card(self, row: int) -> ItemCard:
        return ItemCard(self._titles[row], self._picture(row), self._detail(row))

    def recommended(self, row: int, history: Sequence[int], hit: bool) -> ItemCard:
        weights = self.recommender.modality_weights(row)
        return ItemCard(
            self._titles[row],
            self._picture(row),
            self._detail(row),
            hit,
            {name: weight for name, weight in weights.items() if weight is not None},
            [self._titles[other] for other in self.recommender.nearest(row, history, _BECAUSE)],
        )

    def _picture(self, row: int) -> bytes | None:
        if self._pictures is None:
            return None
        try:
            return self._pictures.read(self.recommender.item_ids.ids[row])
        except InputError:
            # A file that is gone since: the page shows a stand-in.
            return None

    def _detail(self, row: int) -> str:
        return "" if self._categories is None else ", ".join(self._categories[row][:3])
