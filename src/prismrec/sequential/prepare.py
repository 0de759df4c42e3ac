"""How questions are made of a log."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from prismrec.models.settings import Settings
from prismrec.sequential.examples import Task

_HISTORY = {Task.BINARY: 5, Task.TOP3: 3, Task.NEXT: 5, Task.RERANK: 5}
_NEGATIVES = {Task.BINARY: 4, Task.TOP3: 4, Task.NEXT: 20, Task.RERANK: 20}

_Share = Annotated[float, Field(ge=0.0, lt=1.0)]
_Count = Annotated[int, Field(ge=1, le=100_000)]


class PrepareConfig(Settings):
    """How questions are made of a log."""

    task: Task = Field(Task.NEXT, description="What is asked: 'binary', 'top3', 'next' or 'rerank'.")
    history: int | None = Field(
        None, ge=1, le=1000, description="Items shown, fewer where a user has fewer; None: 5, for top3 3."
    )
    split: Literal["last", "users"] = Field(
        "last",
        description="'last': each user's last positives test, those before validate. 'users' (as published): "
        "users are divided, each with one example from the last interactions.",
    )
    valid: _Share = Field(0.1, description="Share of the users that validates, for split='users'.")
    test: _Share = Field(0.1, description="Share of the users that tests, for split='users'.")
    windows: int = Field(
        1, ge=0, description="Most training examples of a user, the latest, for split='last'; 0: all."
    )
    negatives: _Count | Literal["all"] | None = Field(
        None,
        description="Items beside the positives: for binary the titles listed, for rerank the candidates "
        "kept of the first stage (the positive among them, if found). None: 4 for binary and top3, "
        "otherwise 20. 'all' (next, rerank): whatever there is.",
    )
    negative_source: Literal["uniform", "popularity"] = Field(
        "uniform", description="How negatives are drawn; popularity is counted in the training examples."
    )
    noun: str = Field("item", min_length=1, max_length=60, description="What an item is called: 'movie'.")
    plural: str = Field("items", min_length=1, max_length=60, description="What items are called: 'movies'.")
    seed: int = Field(0, ge=0, description="Of all draws.")
    min_interactions: int = Field(
        6, ge=2, le=100_000, description="Users with fewer positive interactions are left out."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.valid + self.test >= 1.0:
            raise ValueError("the shares 'valid' and 'test' leave nobody to train on")
        if self.negatives == "all" and self.task not in (Task.NEXT, Task.RERANK):
            raise ValueError("negatives='all' is for the tasks 'next' and 'rerank'")
        return self

    @property
    def shown(self) -> int:
        """Most items of a history that are shown."""
        return self.history if self.history is not None else _HISTORY[self.task]

    @property
    def n_positives(self) -> int:
        """Positives of an example."""
        return 3 if self.task is Task.TOP3 else 1

    @property
    def n_negatives(self) -> int | None:
        """Negatives of an example; None: all."""
        if self.negatives == "all":
            return None
        return self.negatives if self.negatives is not None else _NEGATIVES[self.task]
