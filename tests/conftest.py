"""Settings and fixtures that all tests share."""
# ruff: noqa: E402 - the settings have to come before the imports

import os

# Before anything else is imported: these libraries read their settings once. One thread each, because the
# tests themselves run side by side, and because the order of a parallel sum would change its last digits.
for _name in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
    os.environ.setdefault(f"{_name}_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Nothing is downloaded: what asks for it fails at once instead of after a time-out.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# A shared machine is sometimes slow, which is no error of the code.
# Half of the usual examples: the suite has ten minutes on two cores.
settings.register_profile(
    "prismrec", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("prismrec")


@pytest.fixture(scope="session")
def movielens() -> Callable[[str], Path]:
    """Return a function from a name (``movielens-small``, ``movielens-1m``) to the folder of that data set.

    The folder holds ``items.parquet`` and ``interactions.parquet``. The test is skipped where it is absent.
    """
    base = Path(os.environ.get("PRISMREC_DATA") or ROOT.parent / "shared" / "data")

    def folder(name: str) -> Path:
        path = base / name
        if not (path / "items.parquet").is_file():
            pytest.skip(f"{path}: no data here; PRISMREC_DATA names the folder that holds {name}/")
        return path

    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of an installed Chromium (as root it runs with ``--no-sandbox`` only).

    Without one the test is skipped, or fails where PRISMREC_REQUIRE_BROWSER is set.
    """
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is not None:
        return path
    missing = f"no Chromium on PATH (looked for {', '.join(BROWSERS)})"
    if os.environ.get("PRISMREC_REQUIRE_BROWSER"):
        pytest.fail(f"{missing}, and PRISMREC_REQUIRE_BROWSER is set")
    pytest.skip(missing)
