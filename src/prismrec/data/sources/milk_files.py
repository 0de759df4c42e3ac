"""Folders as MILK and MAMEX keep them: pairs divided by items, and one array of vectors a modality.

``train.txt``, ``val.txt`` and ``test.txt`` have a line a user, numbers separated by spaces: the user's code,
then the codes of items; a user without items in a part has a line with the user alone.
``cold_item_index.npy`` lists the items that are not trained on, and is what both rank at validation and at
test (``as_released``).
``image_feat.npy``, ``text_feat.npy`` and, for TikTok, ``audio_feat.npy`` have row n for item n.

MILK (github.com/HaoyueBai98/MILK) adds versions of the vectors for its studies of missing modalities,
``image_feat_missing_test.npy`` and so on, in which missing vectors have been filled in; they are not read,
and neither are the lists ``warm_missing_item_index.npy`` and ``cold_missing_item_index.npy``.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from prismrec.base.errors import InputError
from prismrec.data.report import Refusals
from prismrec.data.sources.ready_pairs import (
    Row,
    code_frame,
    is_code,
    named,
    require_codes,
    settle,
    source_data,
)
from prismrec.data.sources.ready_vectors import count_items, open_array, vector_files
from prismrec.data.sources.source import PARTS, Source, SourceData

_LINE = "Expected a line a user: the user's code and the codes of items, separated by spaces."


def read_milk(folder: Path) -> SourceData:
    """Read a folder of MILK's or MAMEX's.

    Returns
    -------
    SourceData
        Ids are the codes. The notes count held-out items that the list of cold items lacks.

    Raises
    ------
    InputError
        If a file is missing, a line holds something else than codes, an item has no row in the vectors, or
        an item of the list of cold items is trained on.
    """
    folder = Path(folder)
    refused, vectors = Refusals(), vector_files(folder)
    rows = [
        row
        for part, name in zip(PARTS, ("train.txt", "val.txt", "test.txt"), strict=True)
        for row in _read_part(folder / name, part)
    ]
    table = code_frame(rows)
    n_users = require_codes(table, "user", None, "users of the files")
    n_items = require_codes(table, "item", count_items(vectors), "rows of the vectors")
    cold = _read_cold(folder / "cold_item_index.npy", n_items, table)
    if not vectors:
        # Cold items need not occur in any pair that is listed.
        n_items = max(n_items, int(cold.max()) + 1 if len(cold) else 0)
    item_ids = [str(code) for code in range(n_items)]
    pairs = settle(named(table, [str(code) for code in range(n_users)], item_ids), refused)
    held_out = np.unique(table.filter(pl.col("part") != PARTS[0])["item"].to_numpy())
    notes = {
        "source": "milk-files",
        "cold_items": len(cold),
        "held_out_items_not_listed_as_cold": int((~np.isin(held_out, cold)).sum()),
    }
    return source_data(pairs, pl.DataFrame({"item_id": item_ids}), vectors, refused, notes)


def _read_part(path: Path, part: str) -> list[Row]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.", "Check the path.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text of numbers ({error}).", _LINE) from None
    rows: list[Row] = []
    for row, line in enumerate(lines):
        numbers = line.split()
        if not numbers:
            continue
        codes = [int(number) if number.isdecimal() else -1 for number in numbers]
        if not all(map(is_code, codes)):
            odd = next(number for number, code in zip(numbers, codes, strict=True) if not is_code(code))
            raise InputError(f"{path}, row {row}: {odd!r} is no code.", _LINE)
        user, *items = codes
        rows += [(str(path), row, user, item, part) for item in items]
    return rows


def _read_cold(path: Path, n_items: int, table: pl.DataFrame) -> npt.NDArray[np.int64]:
    """Return the items that are not trained on, ascending; without a list, those that the pairs show."""
    trained = table.filter(pl.col("part") == PARTS[0])
    if not path.exists():
        held_out = table.filter(pl.col("part") != PARTS[0])["item"].to_numpy()
        return np.setdiff1d(held_out, trained["item"].to_numpy()).astype(np.int64)
    array = open_array(path)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"{path}: holds {array.dtype}, shape {array.shape}.", "Expected a list of item codes."
        )
    cold = np.asarray(array, dtype=np.int64)
    largest = n_items if vector_files(path.parent) else 2**31
    stray = np.flatnonzero((cold < 0) | (cold >= largest))
    if len(stray):
        raise InputError(
            f"{path}, row {stray[0]}: item {cold[stray[0]]} is out of range.",
            f"Expected 0 to {n_items - 1:,} (rows of the vectors).",
        )
    learnt = trained.filter(pl.col("item").is_in(cold.tolist()))
    if learnt.height:
        raise InputError(
            f"{path}: item {learnt['item'][0]} is listed as cold and trained on, in "
            f"{learnt['source'][0]}, row {learnt['row'][0]}; {learnt['item'].n_unique():,} items are.",
            "The files belong to different divisions.",
        )
    return np.unique(cold)


sources: tuple[Source, ...] = (
    Source(
        name="milk-files",
        about="A folder as MILK and MAMEX use it (Amazon Baby, Clothing, Sports; TikTok), divided by items: "
        "train.txt, val.txt, test.txt, cold_item_index.npy and <modality>_feat.npy. The owners offer it in "
        "shared folders (Google Drive) that the READMEs of their repositories name.",
        licence="Not stated with the files; Amazon reviews are for research use.",
        citation="H. Bai, L. Wu, M. Hou, M. Cai, Z. He, Y. Zhou, R. Hong, M. Wang, Multimodality Invariant "
        "Learning for Multimedia-Based New Item Recommendation, SIGIR 2024; for MAMEX's vectors: V.-K. "
        "Nguyen et al., Multi-modal Adaptive Mixture of Experts for Cold-start Recommendation, CIKM 2025",
        files=(),
        read=read_milk,
    ),
)
