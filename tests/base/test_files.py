import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors import SafetensorError

from prismrec.base.errors import InputError, StorageError
from prismrec.base.files import storage_errors

FULL, SHOP = Path("/dev/full"), Path("shop")


def write_text() -> None:
    FULL.write_text("x")


def write_table() -> None:
    pl.DataFrame({"x": np.arange(50_000)}).write_parquet(FULL)


def write_array() -> None:
    with FULL.open("wb") as handle:
        np.save(handle, np.arange(50_000.0))


@pytest.mark.skipif(not FULL.is_char_device(), reason="no device that is always full")
@pytest.mark.parametrize("write", [write_text, write_table, write_array])
def test_a_full_disk_is_known_however_the_writer_says_it(write: Callable[[], None]) -> None:
    with pytest.raises(StorageError, match="shop: cannot write here, the disk is full"), storage_errors(SHOP):
        write()


@pytest.mark.parametrize(("number", "reason"), [(28, "disk is full"), (30, "read-only"), (13, "permission")])
def test_a_number_in_words_is_read(number: int, reason: str) -> None:
    said = SafetensorError(f"Error while serializing: I/O error: whatever (os error {number})")
    with pytest.raises(StorageError, match=reason) as caught, storage_errors(Path("run")):
        raise said
    assert caught.value.__cause__ is said


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOENT, "No such file or directory"),
        ValueError("(os error 2)"),
        RuntimeError("28"),
        InputError("row 3 says (os error 28)"),
    ],
)
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, storage_errors(Path("run")):
        raise error
    assert caught.value is error
