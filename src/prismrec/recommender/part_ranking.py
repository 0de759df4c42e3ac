"""What is ranked for whom: the candidates of a part, its users, their positives."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import InputError
from prismrec.base.exact import ItemMatrix
from prismrec.base.progress import SILENT, Progress
from prismrec.data.interactions import Pairs
from prismrec.data.splits import Candidates, GivenSplit, GlobalTime, ItemColdStart, Part, Split
from prismrec.evaluation.metrics import UserMetrics, per_user
from prismrec.evaluation.ranking import Ranks, Rows, rank_positives, tie_order
from prismrec.training.loop import require_device

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]


def default_candidates(split: Split) -> Candidates:
    """Return the candidates that fit a split: its own cold items, everything, or what training knows."""
    if isinstance(split.plan, ItemColdStart):
        return Candidates.STRICT
    if isinstance(split.plan, GivenSplit) and split.holds_out_items:
        return Candidates.STRICT
    return Candidates.ALL_ITEMS if isinstance(split.plan, GlobalTime) else Candidates.WARM


def ranking_device(device: str) -> str:
    """Return where to rank, "cuda" or "cpu": Apple's GPUs lack float64, in which close scores are decided.

    Raises
    ------
    ConfigError
        If there is no such device here.
    """
    return "cuda" if require_device(device) == "cuda" else "cpu"


@dataclass(frozen=True)
class Ranking:
    """What is ranked for whom in one part.

    Parameters
    ----------
    users
        Codes of the users with a positive, ascending.
    candidates
        Codes of the items that are ranked, ascending.
    ties
        Order of the candidates' ids.
    positives
        Each user's positives as positions among the candidates.
    masked
        Each user's training items likewise; None where no candidate can be one.
    """

    users: Codes
    candidates: Codes
    ties: Codes
    positives: Rows
    masked: Rows | None

    @staticmethod
    def of(split: Split, pairs: Pairs, mode: Candidates, part: Part) -> "Ranking":
        """Lay out the ranking of a part's pairs.

        Raises
        ------
        InputError
            If there is no candidate, or no user has a positive among them.
        """
        candidates = split.candidates(mode, part)
        place = np.full(len(split.items), -1, dtype=np.int64)
        place[candidates] = np.arange(len(candidates))
        kept = pairs.take(place[pairs.items] >= 0)
        if len(kept) == 0:
            raise InputError(
                f"No user has a positive in the part '{part}' among the candidates '{mode}'.",
                "Choose other candidates, or a split with larger shares.",
            )
        users = np.unique(kept.users)
        row = np.full(len(split.users), -1, dtype=np.int64)
        row[users] = np.arange(len(users))
        masked = None
        if mode in (Candidates.ALL_ITEMS, Candidates.WARM):
            train = split.train.take(row[split.train.users] >= 0)
            masked = Rows.of(row[train.users], place[train.items], len(users))
        return Ranking(
            users,
            candidates,
            tie_order(split.items.names(candidates)),
            Rows.of(row[kept.users], place[kept.items], len(users)),
            masked,
        )

    def matrix(self, items: Floats) -> ItemMatrix:
        """Lay out the candidates' vectors, shape ``(len(candidates), d)``, for ranking."""
        return ItemMatrix.of(items, self.ties)

    def ranks(
        self, users: Floats, items: ItemMatrix, progress: Progress = SILENT, *, device: str = "cpu"
    ) -> Ranks:
        """Rank the positives.

        Parameters
        ----------
        users
            Vectors of all users of the vocabulary.
        items
            The candidates, from `matrix`.
        progress
            Where to report to.
        device
            "cpu" or "cuda"; the ranks are the same.
        """
        mine = users[self.users]
        return rank_positives(mine, items, self.positives, self.masked, device=device, progress=progress)

    def metrics(self, users: Floats, items: Floats, ks: Sequence[int], *, device: str = "cpu") -> UserMetrics:
        """Return metrics of each counted user."""
        return per_user(self.ranks(users, self.matrix(items), device=device), ks)
