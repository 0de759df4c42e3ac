"""TikTok as MMSSL prepared it: pairs in three parts, and vectors of picture, sound and text.

MMSSL (github.com/HKUDS/MMSSL; also LLMRec, DiffMM and others) keeps the pairs twice: ``train.json``,
``val.json`` and ``test.json`` map a user's code to the codes of items, and ``train_mat``, ``val_mat`` and
``test_mat`` are pickled sparse matrices, users by items. The JSON files are read where all three are there.
The pickles are read by `pickled_matrix`, which carries out nothing of them. ``image_feat.npy`` (128 numbers
an item), ``audio_feat.npy`` (128) and ``text_feat.npy`` (768) have row n for item n. Other data sets in these
files (Allrecipes, Amazon) are read likewise.

The vectors of MMGCN's own, larger TikTok are not in these files and not read here.
"""

from pathlib import Path

import polars as pl

from prismrec.base.errors import InputError
from prismrec.data.report import Refusals
from prismrec.data.sources.pickled_matrix import read_matrix
from prismrec.data.sources.ready_pairs import (
    Row,
    code_frame,
    named,
    read_lists,
    require_codes,
    settle,
    source_data,
)
from prismrec.data.sources.ready_vectors import count_items, vector_files
from prismrec.data.sources.source import PARTS, Source, SourceData

_NAMES = ("train", "val", "test")


def read_tiktok(folder: Path) -> SourceData:
    """Read a folder of MMSSL's.

    Returns
    -------
    SourceData
        Ids are the codes.

    Raises
    ------
    InputError
        If a file is missing or damaged, a pickle asks for anything but a matrix, the matrices differ in
        shape, or an item has no row in the vectors.
    """
    folder = Path(folder)
    refused, vectors = Refusals(), vector_files(folder)
    counted = count_items(vectors)
    n_users: int | None = None
    n_items, told = counted, "rows of the vectors"
    if all((folder / f"{name}.json").exists() for name in _NAMES):
        rows = [
            row
            for part, name in zip(PARTS, _NAMES, strict=True)
            for row in read_lists(folder / f"{name}.json", part)
        ]
    else:
        rows, (n_users, n_columns) = _read_matrices(folder)
        if counted is not None and counted != n_columns:
            first = next(iter(vectors.values()))
            raise InputError(
                f"{first}: has {counted:,} rows, and the matrices have {n_columns:,} columns.",
                "Row n belongs to item n; one of the files is of other data.",
            )
        n_items, told = n_columns, "columns of the matrices"
    table = code_frame(rows)
    n_users = require_codes(table, "user", n_users, "rows of the matrices")
    n_items = require_codes(table, "item", n_items, told)
    item_ids = [str(code) for code in range(n_items)]
    pairs = settle(named(table, [str(code) for code in range(n_users)], item_ids), refused)
    notes = {"source": "tiktok"}
    return source_data(pairs, pl.DataFrame({"item_id": item_ids}), vectors, refused, notes)


def _read_matrices(folder: Path) -> tuple[list[Row], tuple[int, int]]:
    """Read the three pickles; the row of a pair is its place in its matrix."""
    rows: list[Row] = []
    shapes: dict[str, tuple[int, int]] = {}
    for part, name in zip(PARTS, _NAMES, strict=True):
        path = folder / f"{name}_mat"
        (users, items), shapes[path.name] = read_matrix(path)
        codes = zip(users.tolist(), items.tolist(), strict=True)
        rows += [(str(path), row, user, item, part) for row, (user, item) in enumerate(codes)]
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise InputError(f"{folder}: the matrices differ in shape: {listed}.", "Users by items, all alike.")
    return rows, next(iter(shapes.values()))


sources: tuple[Source, ...] = (
    Source(
        name="tiktok",
        about="TikTok micro-videos with vectors of picture, sound and text, as MMSSL prepared them: train, "
        "val and test as .json or _mat, and <modality>_feat.npy. TikTok's own page is closed; the README of "
        "MMSSL's repository names the shared folder (Google Drive) in which its authors offer the files.",
        licence="Not stated with the files; its authors ask to be cited.",
        citation="W. Wei, C. Huang, L. Xia, C. Zhang, Multi-Modal Self-Supervised Learning for "
        "Recommendation, WWW 2023",
        files=(),
        read=read_tiktok,
    ),
)
