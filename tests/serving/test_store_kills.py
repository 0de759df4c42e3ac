"""Kill -9 at random moments while items are put and deleted, events recorded, and files put together.

PRISMREC_KILLS sets how many kills there are.
"""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytest.importorskip("lancedb")

from prismrec.serving.store import ItemStore

KILLS = int(os.environ.get("PRISMREC_KILLS", "5"))
SCRIPT = Path(__file__).with_name("killable_store.py")
COLUMNS = {"title": pl.String(), "price": pl.Float64()}


def load_script():
    spec = importlib.util.spec_from_file_location("killable_store", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_until_killed(home, begin, steps, after):
    """Kill a writer some seconds after some steps; return how many were acknowledged in all."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(home), str(begin)], stdout=subprocess.PIPE, text=True
    )
    for expected in ("open", *range(begin + 1, begin + 1 + steps)):
        assert process.stdout.readline() == f"{expected}\n"
    time.sleep(after)
    process.kill()
    rest, _ = process.communicate()
    # A line that was cut off was not read by anybody.
    whole = [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    return int(whole[-1]) if whole else begin + steps


def state_of(store):
    items = [
        (r.item.item_id, dict(r.item.attributes), r.item.picture, r.model, r.vector.tobytes(), r.notes)
        for r in store.read_all()
    ]
    return items, sorted(store.read_deleted()), list(store.read_events())


def test_what_was_acknowledged_is_there_and_nothing_is_torn(tmp_path, record_property):
    script = load_script()
    random = np.random.default_rng()
    home = tmp_path / "store"
    done = 0
    for _ in range(KILLS):
        acknowledged = write_until_killed(home, done, int(random.integers(1, 9)), random.uniform(0, 0.1))
        found = state_of(ItemStore(home, COLUMNS))
        # The step that the kill struck happened as a whole or not at all.
        possible = [state_of(script.expected(acknowledged + more)) for more in (0, 1)]
        assert found in possible
        done = acknowledged + possible.index(found)
    record_property("steps", done)
    assert done >= KILLS
