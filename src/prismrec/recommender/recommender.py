"""The recommender: ask it for items, for neighbours, for reasons; give it new items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from prismrec.base.errors import DamagedError, InputError
from prismrec.base.exact import ItemMatrix
from prismrec.base.progress import SILENT, Progress
from prismrec.data.catalog import Catalog
from prismrec.data.splits import Split
from prismrec.data.vocabulary import UNKNOWN, Vocabulary
from prismrec.evaluation.ranking import Rows, tie_order, top_k
from prismrec.features.encoder import Encoder
from prismrec.features.store import FeatureStore, ItemFeatures
from prismrec.models.base import Model, ModelConfig
from prismrec.recommender.filters import matching
from prismrec.recommender.folding import fold
from prismrec.recommender.manifest import RunManifest
from prismrec.recommender.vectors import ItemVectors, average_for_unknown

if TYPE_CHECKING:
    from prismrec.recommender.additions import AddReport

Floats = npt.NDArray[np.float32]
Choice = Literal["all", "new", "warm"]

# Users whose lists are made at a time.
_BLOCK = 8192


@dataclass
class Recommender:
    """A fitted model with everything that it takes to answer.

    Made by `prismrec.train`, or by `Recommender.load` from a run's folder.

    Parameters
    ----------
    model
        On the CPU, in evaluation mode.
    manifest
        How it came about.
    split
        The training vocabulary and who interacted with what. Item codes below ``len(split.items)`` are rows
        of `catalog`; items that came later follow.
    catalog
        All items.
    items
        Their vectors, in the order of the catalogue.
    users
        User vectors, shape ``(len(split.users), d)``.
    folding
        From a history to a user vector (`prismrec.recommender.folding`).
    encoders
        Folder of each modality's encoder.
    digests
        Digest of each item's encoded content by modality: tells whether an item that comes again changed.
    path
        The run's folder; None in memory.
    opened
        Encoders that were loaded already, by modality: a service adds items every second. Those of the
        user's own come in through `add_items`.
    """

    model: Model
    manifest: RunManifest
    split: Split
    catalog: Catalog
    items: ItemVectors
    users: Floats
    folding: Floats
    encoders: Mapping[str, Path] = field(default_factory=dict)
    digests: dict[str, dict[str, str]] = field(default_factory=dict)
    path: Path | None = None
    opened: dict[str, Encoder[Any]] = field(default_factory=dict)

    def __repr__(self) -> str:
        preset = "" if self.manifest.preset is None else f" ({self.manifest.preset})"
        content = " and ".join(self.modalities) or "no content"
        return (
            f"Recommender({self.manifest.model}{preset}: {len(self.split.users):,} users, "
            f"{len(self.catalog):,} items with {content}; {'in memory' if self.path is None else self.path})"
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in the order of the model."""
        return tuple(modality.name for modality in self.model.inputs.modalities)

    @property
    def item_ids(self) -> Vocabulary:
        """All items' ids."""
        return self.catalog.vocabulary

    @cached_property
    def _training_rows(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        return self.split.train.by_user(len(self.split.users))

    def training_features(self) -> ItemFeatures | None:
        """Return the features that the model was trained on; None if they are not there, or others are."""
        home = self.manifest.dataset_path
        if home is None or not self.modalities:
            return None
        try:
            stores = [FeatureStore.read(Path(home) / "features" / name) for name in self.modalities]
        except (InputError, DamagedError):
            return None
        known = [note.content_hash for note in self.manifest.features]
        if [store.content_hash for store in stores] != known:
            return None
        return ItemFeatures(stores, self.split.items.ids)

    def is_warm(self) -> npt.NDArray[np.bool_]:
        """Return which items of the catalogue occur in training."""
        warm = np.zeros(len(self.catalog), dtype=np.bool_)
        warm[: len(self.split.items)] = self.split.warm_items
        return warm

    def can_recommend(self) -> npt.NDArray[np.bool_]:
        """Return which items have a vector that means something.

        For a model of content those that have any content; for one that knows items by their interactions
        those of the training part.
        """
        if not self.model.config.recommends_cold_items:
            return self.is_warm()
        if not self.model.config.uses_content:
            return np.ones(len(self.catalog), dtype=np.bool_)
        return np.asarray(self.items.present.any(axis=1))

    def history(self, user: str) -> list[str]:
        """Return the items of a user's training interactions; empty for an unknown user."""
        code = int(self.split.users.codes([user])[0])
        if code == UNKNOWN:
            return []
        starts, touched = self._training_rows
        return self.split.items.names(touched[starts[code] : starts[code + 1]])

    def user_vector(self, user: str) -> tuple[Floats, bool]:
        """Return a user's vector and whether it is the fallback.

        A user without training interactions gets the mean of all users' vectors: what people like on average.
        """
        code = int(self.split.users.codes([user])[0])
        starts, _ = self._training_rows
        if code == UNKNOWN or starts[code] == starts[code + 1]:
            return self.average_user, True
        return self.users[code], False

    @cached_property
    def average_user(self) -> Floats:
        """Mean vector of the users who have training interactions."""
        starts, _ = self._training_rows
        known = np.diff(starts) > 0
        mean: Floats = self.users[known].mean(axis=0) if known.any() else self.users.mean(axis=0)
        return mean

    def all_user_vectors(self) -> Floats:
        """Return the vectors of all users of the vocabulary, the fallback for those without history."""
        starts, _ = self._training_rows
        return average_for_unknown(self.users, np.diff(starts) > 0)

    def fold_in(self, liked: Sequence[str]) -> Floats:
        """Return a vector for someone who likes some items, without training.

        Raises
        ------
        InputError
            If no item is given, one is unknown, or none of them can be recommended (has content).
        """
        if not liked:
            raise InputError("Name at least one item that the user likes.")
        rows = np.array([self.item_ids.code(name) for name in liked])
        usable = rows[self.can_recommend()[rows]]
        if len(usable) == 0:
            raise InputError("None of the liked items has a vector: they have no content that was encoded.")
        warm = np.flatnonzero(self.is_warm())
        place = np.full(len(self.catalog), -1)
        place[warm] = np.arange(len(warm))
        vectors = self.items.vectors
        own = self.model.fold_in(
            torch.from_numpy(vectors[usable]),
            torch.from_numpy(vectors[warm]),
            torch.from_numpy(place[usable]),
        )
        return fold(self.folding, vectors[usable]) if own is None else own.numpy().astype(np.float32)

    def recommend(
        self,
        users: Sequence[str] | None = None,
        *,
        liked: Sequence[str] | None = None,
        k: int = 10,
        choose: Choice = "all",
        where: Sequence[str] = (),
        exclude_seen: bool = True,
        explain: bool = False,
        progress: Progress = SILENT,
    ) -> pl.DataFrame:
        """Recommend items.

        Parameters
        ----------
        users
            User ids; None with `liked` None: everyone. An id that the log does not know, or a user without
            training interactions, is served by the average of all users, and marked in ``fallback``.
        liked
            Instead of users: item ids that one anonymous person likes.
        k
            Length of the lists. Shorter ones come where fewer items are left.
        choose
            "new": only items without training interactions; "warm": only the others.
        where
            Conditions on attributes (`prismrec.recommender.filters`).
        exclude_seen
            Leave out what the user interacted with in training (or likes).
        explain
            Add ``weights`` (modality weights) and ``because`` (the user's most similar items).
        progress
            Where to report to.

        Returns
        -------
        DataFrame
            ``user_id`` (null for `liked`), ``rank`` from 1, ``item_id``, ``title``, ``score``, ``new`` (no
            training interaction), ``fallback``; one row a recommendation.

        Raises
        ------
        InputError
            If nothing may be recommended, k is below 1, or a condition or an item id is wrong.
        """
        if users is not None and liked is not None:
            raise InputError("Give users or liked items, not both.")
        if k < 1:
            raise InputError(f"K = {k} is below 1.")
        candidates = self._candidates(choose, where)
        if liked is not None:
            seen = [self.item_ids.code(name) for name in liked]
            vectors = self.fold_in(liked)[None, :]
            return self._lists(
                [None], vectors, [seen], np.zeros(1, dtype=bool), candidates, k, exclude_seen, explain
            )
        names = list(users) if users is not None else list(self.split.users)
        if not names:
            raise InputError("No user was given.")
        frames = []
        with progress.task("recommend", len(names)) as task:
            for first in range(0, len(names), _BLOCK):
                block = names[first : first + _BLOCK]
                frames.append(self._for_users(block, candidates, k, exclude_seen, explain))
                task.advance(len(block))
        return pl.concat(frames)

    def similar(self, item: str, *, k: int = 10, where: Sequence[str] = ()) -> pl.DataFrame:
        """Return the items whose vectors point the same way (cosine).

        Returns
        -------
        DataFrame
            ``rank``, ``item_id``, ``title``, ``similarity``, ``new``.

        Raises
        ------
        InputError
            If the item is unknown or has no vector, or nothing else is left.
        """
        row = self.item_ids.code(item)
        if not self.can_recommend()[row]:
            raise InputError(f"Item {item!r} has no vector: it has no content that was encoded.")
        allowed = self._allowed("all", where)
        allowed = allowed[allowed != row]
        if len(allowed) == 0:
            raise InputError("No other item is left to compare with.", "Loosen the conditions.")
        items = self._unit_matrix.take(allowed)
        found, scores = top_k(self._unit_vectors[[row]], items, min(k, len(allowed)))
        chosen = allowed[found[0]]
        return pl.DataFrame(
            {
                "rank": np.arange(1, len(chosen) + 1),
                "item_id": self.item_ids.names(chosen),
                "title": [self._titles[i] for i in chosen],
                "similarity": scores[0],
                "new": ~self.is_warm()[chosen],
            }
        )

    def add_items(
        self,
        new: Catalog,
        *,
        vectors: Sequence[FeatureStore] = (),
        encoders: Mapping[str, Encoder[Any]] | None = None,
        progress: Progress = SILENT,
    ) -> "AddReport":
        """Take in new items: encode, project, recommendable at once; nothing is trained.

        Parameters
        ----------
        new
            Items with their content. One that is known and unchanged is left alone, one that changed is
            encoded again.
        vectors
            For modalities of your own vectors: those of the new items.
        encoders
            For modalities that an encoder of your own made: that encoder, by modality. It is kept for later
            calls (`opened`).
        progress
            Where to report to.

        Returns
        -------
        AddReport
            What was added, changed, left alone, and what has no content.

        Raises
        ------
        InputError
            If attributes have another type than the catalogue's, vectors or an encoder do not fit their
            modality, or an encoder of your own is needed and was not handed in.
        StorageError
            If the disk refuses; then nothing has changed.
        """
        from prismrec.recommender.additions import add_items, keep_encoders

        keep_encoders(self, encoders or {})
        return add_items(self, new, vectors, progress)

    def save(self, path: Path | str) -> None:
        """Write the run into a folder (see `prismrec.recommender.folder`)."""
        from prismrec.recommender.folder import save

        save(self, Path(path))

    @staticmethod
    def load(path: Path | str, model: type[ModelConfig] | None = None) -> "Recommender":
        """Read a run's folder (see `prismrec.recommender.folder`).

        Parameters
        ----------
        path
            The folder.
        model
            For a model of your own: the class of its configuration. A run holds no code.

        Raises
        ------
        InputError
            If the folder is not a run, or is that of another model.
        DamagedError
            If a file is missing, altered, or does not fit the others.
        """
        from prismrec.recommender.folder import load

        return load(Path(path), model)

    def forget_derived(self) -> None:
        """Drop what was computed from the catalogue, after it has grown."""
        for name in ("_unit_vectors", "_unit_matrix", "_titles", "_ties", "_matrix", "_matrices"):
            self.__dict__.pop(name, None)

    @cached_property
    def _titles(self) -> list[str]:
        return self.catalog.titles()

    @cached_property
    def _unit_vectors(self) -> Floats:
        vectors = self.items.vectors
        unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit

    @cached_property
    def _ties(self) -> npt.NDArray[np.int32]:
        return tie_order(self.item_ids.names(np.arange(len(self.catalog))))

    @cached_property
    def _matrix(self) -> ItemMatrix:
        return ItemMatrix.of(self.items.vectors, self._ties)

    @cached_property
    def _unit_matrix(self) -> ItemMatrix:
        return ItemMatrix.of(self._unit_vectors, self._ties)

    @cached_property
    def _matrices(self) -> dict[Choice, tuple[npt.NDArray[np.int64], ItemMatrix]]:
        """Items that may be recommended without further conditions, laid out for search."""
        return {}

    def _candidates(self, choose: Choice, where: Sequence[str]) -> tuple[npt.NDArray[np.int64], ItemMatrix]:
        """Rows of the items that may be recommended, and their vectors."""
        if choose in self._matrices and not where:
            return self._matrices[choose]
        allowed = self._allowed(choose, where)
        made = allowed, self._matrix.take(allowed)
        if not where:
            self._matrices[choose] = made
        return made

    def _allowed(self, choose: Choice, where: Sequence[str]) -> npt.NDArray[np.int64]:
        """Rows of the items that may be recommended."""
        mask = self.can_recommend() & matching(self.catalog.items, where).to_numpy()
        if choose == "new":
            mask &= ~self.is_warm()
        elif choose == "warm":
            mask &= self.is_warm()
        if not mask.any():
            raise InputError(
                "No item is left to recommend.",
                f"Items that the model can recommend: {int(self.can_recommend().sum()):,}; "
                f"conditions: {', '.join(where) or 'none'}; choose: {choose}.",
            )
        return np.flatnonzero(mask)

    def _for_users(
        self,
        names: Sequence[str],
        candidates: tuple[npt.NDArray[np.int64], ItemMatrix],
        k: int,
        exclude_seen: bool,
        explain: bool,
    ) -> pl.DataFrame:
        starts, touched = self._training_rows
        codes = self.split.users.codes(names)
        has_history = (codes != UNKNOWN) & (starts[codes + 1] > starts[codes])
        vectors = np.where(has_history[:, None], self.users[codes], self.average_user).astype(np.float32)
        seen = [
            touched[starts[c] : starts[c + 1]].tolist() if known else []
            for c, known in zip(codes.tolist(), has_history.tolist(), strict=True)
        ]
        return self._lists(names, vectors, seen, ~has_history, candidates, k, exclude_seen, explain)

    def _lists(
        self,
        names: Sequence[str | None],
        vectors: Floats,
        seen: Sequence[Sequence[int]],
        fallback: npt.NDArray[np.bool_],
        candidates: tuple[npt.NDArray[np.int64], ItemMatrix],
        k: int,
        exclude_seen: bool,
        explain: bool,
    ) -> pl.DataFrame:
        allowed, items = candidates
        place = np.full(len(self.catalog), -1)
        place[allowed] = np.arange(len(allowed))
        masked = None
        if exclude_seen:
            rows = np.repeat(np.arange(len(names)), [len(s) for s in seen])
            masked = Rows.of(
                rows, place[np.fromiter((i for s in seen for i in s), dtype=np.int64)], len(names)
            )
        found, scores = top_k(vectors, items, min(k, len(allowed)), masked)
        row, rank = np.nonzero(found >= 0)
        chosen = allowed[found[row, rank]]
        warm = self.is_warm()
        ids, titles = self.item_ids.ids, self._titles
        columns: dict[str, Any] = {
            "user_id": pl.Series([names[r] for r in row.tolist()], dtype=pl.String),
            "rank": rank + 1,
            "item_id": pl.Series([ids[i] for i in chosen], dtype=pl.String),
            "title": pl.Series([titles[i] for i in chosen], dtype=pl.String),
            "score": scores[row, rank],
            "new": ~warm[chosen],
            "fallback": fallback[row],
        }
        if explain:
            columns["weights"] = pl.Series(
                [self.modality_weights(i) for i in chosen.tolist()],
                dtype=pl.Struct(dict.fromkeys(self.modalities, pl.Float64)),
            )
            columns["because"] = pl.Series(
                [
                    [ids[j] for j in self.nearest(i, seen[r])]
                    for r, i in zip(row.tolist(), chosen.tolist(), strict=True)
                ],
                dtype=pl.List(pl.String),
            )
        return pl.DataFrame(columns)

    def modality_weights(self, row: int) -> dict[str, float | None]:
        """Return how much each modality counts for an item, None where it has no such content."""
        weights = self.items.weights
        return {
            name: float(weights[row, m]) if weights is not None and self.items.present[row, m] else None
            for m, name in enumerate(self.modalities)
        }

    def nearest(self, row: int, among: Sequence[int], k: int = 3) -> list[int]:
        """Return the rows among some that are most similar to an item (cosine), best first."""
        candidates = np.asarray(among, dtype=np.int64)
        if len(candidates) == 0:
            return []
        unit = self._unit_vectors
        likeness = unit[candidates] @ unit[row]
        return [int(i) for i in candidates[np.argsort(-likeness, kind="stable")[:k]]]
