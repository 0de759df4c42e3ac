"""What lists shall be, for whoever makes them: this process, or others."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from prismrec.base.progress import SILENT, Progress
from prismrec.recommender.recommender import Choice, Recommender


@dataclass(frozen=True)
class Wanted:
    """What lists shall be; the parameters are those of `Recommender.recommend`."""

    k: int = 10
    choose: Choice = "all"
    where: Sequence[str] = ()
    exclude_seen: bool = True
    explain: bool = False

    def of(
        self,
        recommender: Recommender,
        users: Sequence[str] | None,
        *,
        liked: Sequence[str] | None = None,
        progress: Progress = SILENT,
    ) -> pl.DataFrame:
        """Make them, in this process; see `Recommender.recommend`."""
        return recommender.recommend(
            users,
            liked=liked,
            k=self.k,
            choose=self.choose,
            where=self.where,
            exclude_seen=self.exclude_seen,
            explain=self.explain,
            progress=progress,
        )
