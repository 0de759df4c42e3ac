"""Writes to a store until it is killed, and says what was acknowledged.

Not a test itself; `test_store_kills` starts it.
"""

import sys
from datetime import timedelta
from pathlib import Path

import numpy as np

from prismrec.serving.storage import MemoryStore, Store, StoredItem
from prismrec.serving.store import ItemStore
from prismrec.serving.types import Event, NewItem


def step(store: Store, n: int) -> None:
    """Do the n-th thing: what it does depends on n alone."""
    random = np.random.default_rng(n)
    match n % 8:
        case 0 | 1 | 2 | 3 | 4:
            names = [f"i{k}" for k in random.choice(40, int(random.integers(1, 9)), replace=False)]
            store.put([made(name, n, random) for name in names])
        case 5:
            store.delete([f"i{k}" for k in random.choice(40, 3, replace=False)])
        case 6:
            store.record([Event(f"u{k}", f"i{n}", float(n)) for k in range(3)])
        case _:
            # Leaves all as it is; a kill may well strike it.
            if isinstance(store, ItemStore):
                store.optimize(timedelta(0))


def made(name: str, n: int, random: np.random.Generator) -> StoredItem:
    """Return an item whose parts all tell which step made it."""
    vector = random.normal(size=16).astype(np.float32)
    picture = random.bytes(int(random.integers(1, 100_000)))
    return StoredItem(NewItem(name, {"title": f"step {n}", "price": float(n)}, picture), str(n), vector, b"n")


def expected(steps: int) -> MemoryStore:
    """Return what is kept after so many steps."""
    store = MemoryStore()
    for n in range(steps):
        step(store, n)
    return store


if __name__ == "__main__":
    import polars as pl

    store = ItemStore(Path(sys.argv[1]), {"title": pl.String(), "price": pl.Float64()})
    n = int(sys.argv[2])
    sys.stdout.write("open\n")
    sys.stdout.flush()
    while True:
        step(store, n)
        n += 1
        sys.stdout.write(f"{n}\n")
        sys.stdout.flush()
