"""From a run and a store to what is served first."""

from collections.abc import Iterator
from itertools import islice

from prismrec.data.media import Media
from prismrec.recommender.recommender import Recommender
from prismrec.serving.engine import ABSENT
from prismrec.serving.intake import Problem, as_catalog, encode, stored, unstored
from prismrec.serving.state import LoadedRun, State
from prismrec.serving.storage import Store, StoredItem

_BLOCK = 256


def opened(
    run: Recommender, version: str, pictures: Media | None, store: Store
) -> tuple[State, tuple[Problem, ...]]:
    """Lay a store's items over a run's.

    Items that another bundle encoded are encoded again, and the store keeps what came of it: the next start
    is as quick as with items of this one.

    Parameters
    ----------
    run, version, pictures
        The bundle; pictures None: those of the run's catalogue.
    store
        Holds items that were handed in, and which were deleted.

    Returns
    -------
    state
        What is served.
    problems
        Items that do not fit the run, and contents that it cannot encode: item, field, reason.

    Raises
    ------
    DamagedError
        If the store holds something else than it should.
    StorageError
        If the disk refuses.
    """
    shown = run.catalog.media.get("image") if pictures is None else pictures
    loaded = LoadedRun.of(run, version, shown)
    state = State.of(loaded)
    mark, stale, problems = loaded.mark, list[StoredItem](), list[Problem]()
    for block in _blocks(store.read_all()):
        made = [row for row in block if row.model == mark]
        stale += [row for row in block if row.model != mark]
        if made:
            state = state.put(unstored(run, made))
    # Not while the store is being read: it is written to.
    for block in _blocks(iter(stale)):
        items = {row.item.item_id: row.item for row in block}
        catalog, wrong = as_catalog(run, list(items.values()))
        problems += wrong
        if len(catalog):
            rows, report = encode(run, state.rows_of(catalog.vocabulary.ids), catalog)
            problems += report.problems
            store.put(stored(rows, items, mark))
            state = state.put(rows)
    gone = [name for name in store.read_deleted() if state.items.row(name) != ABSENT]
    return (state.without(gone) if gone else state), tuple(problems)


def _blocks(rows: Iterator[StoredItem]) -> Iterator[list[StoredItem]]:
    while block := list(islice(rows, _BLOCK)):
        yield block
