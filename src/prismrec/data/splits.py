"""Splits: who may learn from what, and a test part that stays sealed.

A plan says how to divide, is saved with the run, and gives the same division for the same data and seed.
The test part opens through `Split.open_test` alone, which counts how often that happened.
"""

import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator

from prismrec.base.errors import DamagedError, InputError, SealedError
from prismrec.base.files import atomic_path, digest, digest_file, read_json, write_json
from prismrec.data.dataset import Dataset
from prismrec.data.given_split import PART_NAMES, PARTS_FILE, parts_of_pairs
from prismrec.data.interactions import Pairs
from prismrec.data.vocabulary import Vocabulary

TRAIN, VALID, TEST = 0, 1, 2

Order = npt.NDArray[np.float64] | None
Parts = npt.NDArray[np.int8]

_Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class Part(StrEnum):
    """A part that is evaluated."""

    VALID = "valid"
    TEST = "test"


class Candidates(StrEnum):
    """What is ranked for each user (protocol of the evaluation).

    ``strict``: the part's own cold items. ``as_released``: the cold items of validation and test together, as
    the released code of MILK and MAMEX does it. ``all_items``: every item, the user's training items masked.
    ``warm``: every item seen in training, the user's training items masked.
    """

    STRICT = "strict"
    AS_RELEASED = "as_released"
    ALL_ITEMS = "all_items"
    WARM = "warm"


class SplitPlan(BaseModel):
    """How to divide the positive pairs of a data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str

    @model_validator(mode="after")
    def _something_trains(self) -> Self:
        if getattr(self, "valid", 0.0) + getattr(self, "test", 0.0) >= 1.0:
            raise ValueError("the shares 'valid' and 'test' leave nothing to train on")
        return self

    @abstractmethod
    def parts(self, dataset: Dataset, pairs: Pairs, order: Order) -> Parts:
        """Return the part of each pair: `TRAIN`, `VALID` or `TEST`, shape ``(len(pairs),)``."""

    def origin(self, dataset: Dataset) -> str:
        """Return a digest of what the division was read from; empty where the plan alone decides it."""
        return ""


class ItemColdStart(SplitPlan):
    """Items are divided: every interaction of a validation or test item leaves training.

    Only items that have a positive interaction are divided; the others are new in every part.
    """

    kind: Literal["item-cold-start"] = "item-cold-start"
    valid: _Share = Field(0.1, description="Share of the items that validate.")
    test: _Share = Field(0.1, description="Share of the items that test.")
    seed: int = Field(0, ge=0, description="Seed of the division; without effect with by='time'.")
    by: Literal["random", "time"] = Field(
        "random", description="'time': the newest items by first interaction are cold (test the newest)."
    )

    def parts(self, dataset: Dataset, pairs: Pairs, order: Order) -> Parts:
        """Return the part of each pair; all pairs of an item share one."""
        items = np.unique(pairs.items)
        n_valid, n_test = round(self.valid * len(items)), round(self.test * len(items))
        names = dataset.items.names(items)
        by_name = items[np.argsort(np.array(names, dtype=object), kind="stable")]
        if self.by == "random":
            queue = np.random.default_rng(self.seed).permutation(by_name)
        else:
            if order is None:
                raise InputError(
                    "ItemColdStart(by='time') needs a timestamp, and the interactions have none.",
                    "Map a column to 'timestamp' at ingest, or split at random.",
                )
            if "timestamp" not in dataset.interactions.columns:
                raise InputError(
                    "ItemColdStart(by='time') needs clock times; the interactions have only an order "
                    "within each user ('position').",
                    "Map a column to 'timestamp' at ingest, or split at random.",
                )
            first = np.full(len(dataset.items), np.inf)
            np.minimum.at(first, pairs.items, order)
            queue = by_name[np.argsort(-first[by_name], kind="stable")]
        part_of = np.full(len(dataset.items), TRAIN, dtype=np.int8)
        part_of[queue[:n_test]] = TEST
        part_of[queue[n_test : n_test + n_valid]] = VALID
        return part_of[pairs.items]


class RandomHoldout(SplitPlan):
    """Each user's interactions are divided at random: the protocol of the warm multimodal literature.

    A user's validation and test shares are rounded to the nearest number, and at least one interaction stays
    in training.
    """

    kind: Literal["random-holdout"] = "random-holdout"
    valid: _Share = Field(0.1, description="Share of each user's interactions that validates.")
    test: _Share = Field(0.1, description="Share of each user's interactions that tests.")
    seed: int = Field(0, ge=0, description="Seed of the division.")

    def parts(self, dataset: Dataset, pairs: Pairs, order: Order) -> Parts:
        """Return the part of each pair."""
        noise = np.random.default_rng(self.seed).random(len(pairs))
        rank, size = _rank_in_user(pairs, noise)
        n_test = np.round(self.test * size)
        n_valid = np.round(self.valid * size)
        return _tail_parts(rank, size, n_valid, n_test)


class LeaveLast(SplitPlan):
    """Each user's last interactions test, the ones before them validate: for sequences.

    Users with no more than ``2 n`` interactions stay in training whole.
    """

    kind: Literal["leave-last"] = "leave-last"
    n: int = Field(1, ge=1, description="How many of each user's interactions go to each part.")

    def parts(self, dataset: Dataset, pairs: Pairs, order: Order) -> Parts:
        """Return the part of each pair."""
        if order is None:
            raise InputError(
                "LeaveLast needs a timestamp or a position, and the interactions have neither.",
                "Map a column to 'timestamp' or 'position' at ingest.",
            )
        rank, size = _rank_in_user(pairs, order)
        n = np.where(size > 2 * self.n, self.n, 0).astype(np.float64)
        return _tail_parts(rank, size, n, n)


class GlobalTime(SplitPlan):
    """Everything after one date tests, everything between an earlier date and it validates.

    The dates are timestamps of the data, or shares of all interactions counted from the newest.
    """

    kind: Literal["global-time"] = "global-time"
    valid: _Share = Field(0.1, description="Share of the interactions that validates, if no dates are given.")
    test: _Share = Field(0.1, description="Share of the interactions that tests, if no dates are given.")
    valid_from: float | None = Field(None, description="Timestamp from which interactions validate.")
    test_from: float | None = Field(None, description="Timestamp from which interactions test.")

    def parts(self, dataset: Dataset, pairs: Pairs, order: Order) -> Parts:
        """Return the part of each pair."""
        if order is None or "timestamp" not in dataset.interactions.columns:
            raise InputError(
                "GlobalTime needs clock times, and the interactions have no 'timestamp'.",
                "Map a column to 'timestamp' at ingest, or choose another split.",
            )
        if (self.valid_from is None) != (self.test_from is None):
            raise InputError("GlobalTime takes both valid_from and test_from, or neither.")
        if self.valid_from is not None and self.test_from is not None:
            cuts = (self.valid_from, self.test_from)
        else:
            shares = [1.0 - self.test - self.valid, 1.0 - self.test]
            first, second = np.quantile(order, shares, method="higher")
            cuts = (float(first), float(second))
        return np.digitize(order, cuts).astype(np.int8) if cuts[0] < cuts[1] else _two(order, cuts[1])


class TrainOnAll(SplitPlan):
    """Nothing is held out: for production, once the model has been chosen. It cannot be evaluated."""

    kind: Literal["train-on-all"] = "train-on-all"

    def parts(self, dataset: Dataset, pairs: Pairs, order: Order) -> Parts:
        """Return `TRAIN` for each pair."""
        return np.zeros(len(pairs), dtype=np.int8)


class GivenSplit(SplitPlan):
    """The split that comes with the data: a file in the data set's folder lists the part of each pair.

    What is compared with published numbers needs the published division. The file's content is part of the
    split's identity. A part that the file does not list is empty.
    """

    kind: Literal["given"] = "given"
    file: str = Field(
        PARTS_FILE,
        min_length=1,
        description="Parquet file in the data set's folder: 'user_id', 'item_id' and 'part' "
        "('train', 'valid' or 'test').",
    )
    unlisted: Literal["train"] | None = Field(
        None, description="Part of positive pairs that the file does not list; None: they are an error."
    )

    @field_validator("file")
    @classmethod
    def _inside_the_folder(cls, file: str) -> str:
        path = PurePath(file)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError("name a file inside the data set's folder")
        return file

    def parts(self, dataset: Dataset, pairs: Pairs, order: Order) -> Parts:
        """Return the part of each pair."""
        path = self._path(dataset)
        unlisted = None if self.unlisted is None else PART_NAMES.index(self.unlisted)
        parts = parts_of_pairs(path, dataset, pairs, unlisted=unlisted)
        if not (parts == TRAIN).any() or (parts == TRAIN).all():
            lacking = "for training" if not (parts == TRAIN).any() else "held out"
            raise InputError(
                f"{path}: none of the {len(parts):,} positive pairs is {lacking}.",
                "Check the file, and min_rating: a pair below it is no positive.",
            )
        return parts

    def origin(self, dataset: Dataset) -> str:
        """Return the digest of the file."""
        return digest_file(self._path(dataset))

    def _path(self, dataset: Dataset) -> Path:
        if dataset.path is None:
            raise InputError(
                f"The split 'given' reads {self.file} from the data set's folder, and this one is in memory.",
                "Write the data set with Dataset.write, and its parts beside it with write_parts.",
            )
        return dataset.path / self.file


AnyPlan = Annotated[
    ItemColdStart | RandomHoldout | LeaveLast | GlobalTime | TrainOnAll | GivenSplit,
    Field(discriminator="kind"),
]
PLANS: TypeAdapter[ItemColdStart | RandomHoldout | LeaveLast | GlobalTime | TrainOnAll | GivenSplit] = (
    TypeAdapter(AnyPlan)
)


@dataclass
class Split:
    """A divided data set.

    Parameters
    ----------
    plan
        How it was divided.
    users, items
        All users of the log and all items of the catalogue; every code refers to them.
    pairs
        All positive pairs, each once.
    parts
        Part of each pair, int8: `TRAIN`, `VALID`, `TEST`.
    dataset
        Where it came from; None once only the run is left.
    ledger
        Folder in which openings of the test part are counted; None counts in memory.
    origin
        Digest of the file that the division was read from; empty where the plan alone decides it.
    order
        When each pair happened first, as a timestamp or a position, shape ``(len(pairs),)``; None where the
        log has neither.

    Raises
    ------
    InputError
        If `order` is not of the pairs.
    """

    plan: SplitPlan
    users: Vocabulary
    items: Vocabulary
    pairs: Pairs
    parts: Parts
    dataset: Dataset | None = None
    ledger: Path | None = None
    origin: str = ""
    order: Order = None
    _openings: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if self.order is not None and len(self.order) != len(self.pairs):
            raise InputError(
                f"The split has {len(self.pairs):,} pairs and an order of {len(self.order):,}.",
                "Leave pairs out with Split.take, which keeps both in step.",
            )

    def __repr__(self) -> str:
        train, valid, test = np.bincount(self.parts, minlength=3)
        return (
            f"Split({self.plan.kind}: {train:,} pairs train, {valid:,} validate, {test:,} are sealed; "
            f"{len(self.users):,} users, {len(self.items):,} items)"
        )

    @cached_property
    def train(self) -> Pairs:
        """The training pairs."""
        return self.pairs.take(self.parts == TRAIN)

    @cached_property
    def train_order(self) -> Order:
        """When each of the training pairs happened; None where the log does not say."""
        return None if self.order is None else self.order[self.parts == TRAIN]

    @cached_property
    def valid(self) -> Pairs:
        """The validation pairs."""
        return self.pairs.take(self.parts == VALID)

    @property
    def test(self) -> Pairs:
        """Sealed.

        Raises
        ------
        SealedError
            Always.
        """
        raise SealedError(
            "The test part is sealed: training, early stopping and model choice see train and valid only.",
            "Use pr.evaluate(recommender, split, part='test'), which opens it and writes that down.",
        )

    @cached_property
    def hash(self) -> str:
        """Digest of the plan, the vocabularies, the division and the file that it was read from."""
        # An empty origin is left out: it would alter the digests of runs that were made without it. So would
        # the order, which does not say who may learn from what; the data set's own digest covers it.
        return digest(
            self.plan.model_dump_json().encode(),
            "\n".join(self.users.ids).encode(),
            "\n".join(self.items.ids).encode(),
            self.pairs.users.tobytes(),
            self.pairs.items.tobytes(),
            self.parts.tobytes(),
            *([self.origin.encode()] if self.origin else []),
        )

    def take(self, kept: npt.NDArray[np.bool_]) -> "Split":
        """Return the split with the pairs where `kept` is true, shape ``(len(pairs),)``, in their parts."""
        return replace(
            self,
            pairs=self.pairs.take(kept),
            parts=self.parts[kept],
            order=None if self.order is None else self.order[kept],
            _openings=[],
        )

    @cached_property
    def warm_items(self) -> npt.NDArray[np.bool_]:
        """Which items occur in training, shape ``(len(items),)``."""
        mask = np.zeros(len(self.items), dtype=np.bool_)
        mask[self.train.items] = True
        return mask

    @cached_property
    def holds_out_items(self) -> bool:
        """Whether no held-out pair is with an item of training, and there is a held-out pair at all."""
        held_out = self.pairs.items[self.parts != TRAIN]
        return len(held_out) > 0 and not self.warm_items[held_out].any()

    def cold_items(self, part: Part) -> npt.NDArray[np.bool_]:
        """Which items occur in a part and not in training, shape ``(len(items),)``.

        That an item belongs to the test part is no secret (the evaluation's candidates show it); with whom it
        interacted is.
        """
        mask = np.zeros(len(self.items), dtype=np.bool_)
        mask[self.pairs.items[self.parts == _CODE[part]]] = True
        return mask & ~self.warm_items

    def candidates(self, mode: Candidates, part: Part) -> npt.NDArray[np.int32]:
        """Return the codes of the items that are ranked, ascending.

        Raises
        ------
        InputError
            If there are none.
        """
        if mode is Candidates.STRICT:
            mask = self.cold_items(part)
        elif mode is Candidates.AS_RELEASED:
            mask = self.cold_items(Part.VALID) | self.cold_items(Part.TEST)
        elif mode is Candidates.WARM:
            mask = self.warm_items
        else:
            mask = np.ones(len(self.items), dtype=np.bool_)
        if not mask.any():
            raise InputError(
                f"There is no candidate item with candidates='{mode}' in the part '{part}' of a "
                f"{self.plan.kind} split.",
                "Choose other candidates ('warm' for splits that hold out interactions) or larger shares.",
            )
        return np.flatnonzero(mask).astype(np.int32)

    def open_test(self, note: Mapping[str, Any]) -> tuple[Pairs, int]:
        """Open the sealed test part and write down that it happened.

        Parameters
        ----------
        note
            What is evaluated, JSON-able.

        Returns
        -------
        pairs
            The test pairs.
        before
            How often this split's test part had been opened before.
        """
        book = self.ledger / f"{self.hash}.json" if self.ledger is not None else None
        if book is not None and book.exists():
            self._openings = list(read_json(book, "a ledger of test openings")["openings"])
        before = len(self._openings)
        self._openings.append(dict(note))
        if book is not None:
            plan = self.plan.model_dump(mode="json")
            write_json(book, {"split": self.hash, "plan": plan, "openings": self._openings})
        return self.pairs.take(self.parts == TEST), before

    def write(self, folder: Path) -> None:
        """Write the split into a folder (``split.parquet``, ``users.parquet``, ``items.parquet``)."""
        meta = {b"plan": self.plan.model_dump_json().encode(), b"hash": self.hash.encode()}
        if self.ledger is not None:
            meta[b"ledger"] = str(self.ledger.absolute()).encode()
        if self.origin:
            meta[b"origin"] = self.origin.encode()
        table = pa.table({"user": self.pairs.users, "item": self.pairs.items, "part": self.parts})
        if self.order is not None:
            table = table.append_column("order", pa.array(self.order))
        _write_table(folder / "users.parquet", pa.table({"user_id": pa.array(self.users.ids, pa.string())}))
        _write_table(folder / "items.parquet", pa.table({"item_id": pa.array(self.items.ids, pa.string())}))
        _write_table(folder / "split.parquet", table.replace_schema_metadata(meta))

    @staticmethod
    def read(folder: Path) -> "Split":
        """Read what `write` wrote.

        Raises
        ------
        DamagedError
            If a file is missing or does not fit the others.
        """
        table = _read_table(folder / "split.parquet")
        meta = table.schema.metadata or {}
        split = Split(
            plan=PLANS.validate_python(json.loads(meta[b"plan"])),
            users=Vocabulary(_read_table(folder / "users.parquet").column(0).to_pylist(), "user"),
            items=Vocabulary(_read_table(folder / "items.parquet").column(0).to_pylist(), "item"),
            pairs=Pairs(table["user"].to_numpy(), table["item"].to_numpy()),
            parts=table["part"].to_numpy(),
            ledger=Path(meta[b"ledger"].decode()) if b"ledger" in meta else None,
            origin=meta.get(b"origin", b"").decode(),
            # Runs from before there was this column know no order.
            order=table["order"].to_numpy() if "order" in table.column_names else None,
        )
        if split.hash != meta[b"hash"].decode():
            raise DamagedError(f"{folder}: the split's files do not belong together.", "Train again.")
        return split


_CODE = {Part.VALID: VALID, Part.TEST: TEST}


def make_split(dataset: Dataset, plan: SplitPlan) -> Split:
    """Divide a data set by a plan.

    Raises
    ------
    InputError
        If the data lack what the plan needs, or a part that the plan asks for is empty.
    """
    pairs, order = dataset.positives()
    if len(pairs) == 0:
        raise InputError("There is no positive interaction to divide.", "Lower min_rating, or check the log.")
    parts = plan.parts(dataset, pairs, order)
    ledger = dataset.path / "splits" if dataset.path is not None else None
    origin = plan.origin(dataset)
    split = Split(plan, dataset.users, dataset.items, pairs, parts, dataset, ledger, origin, order)
    counts = np.bincount(parts, minlength=3)
    shares = {"train": 1.0, "valid": getattr(plan, "valid", 1.0), "test": getattr(plan, "test", 1.0)}
    for name, count in zip(("train", "valid", "test"), counts, strict=True):
        if count == 0 and shares[name] > 0 and not isinstance(plan, TrainOnAll | GivenSplit):
            raise InputError(
                f"The {name} part of the split '{plan.kind}' is empty "
                f"({len(pairs):,} positive pairs, {len(np.unique(pairs.items)):,} items).",
                "There are too few data for these shares, or the dates lie outside the log.",
            )
    return split


def _rank_in_user(
    pairs: Pairs, key: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rank of each pair among its user's by `key` (ties by item code) and the number of the user's pairs."""
    order = np.lexsort((pairs.items, key, pairs.users))
    sizes = np.bincount(pairs.users)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    rank = np.empty(len(pairs), dtype=np.int64)
    rank[order] = np.arange(len(pairs)) - starts[pairs.users[order]]
    return rank, sizes[pairs.users]


def _tail_parts(
    rank: npt.NDArray[np.int64],
    size: npt.NDArray[np.int64],
    n_valid: npt.NDArray[np.float64],
    n_test: npt.NDArray[np.float64],
) -> Parts:
    n_test = np.minimum(n_test, size - 1)
    n_valid = np.minimum(n_valid, size - 1 - n_test)
    parts = np.full(len(rank), TRAIN, dtype=np.int8)
    parts[rank >= size - n_test - n_valid] = VALID
    parts[rank >= size - n_test] = TEST
    return parts


def _two(order: npt.NDArray[np.float64], cut: float) -> Parts:
    return np.where(order >= cut, TEST, TRAIN).astype(np.int8)


def _write_table(path: Path, table: pa.Table) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise DamagedError(f"{path}: the file is missing from the run.") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedError(f"{path}: the file is damaged ({error}).") from error
