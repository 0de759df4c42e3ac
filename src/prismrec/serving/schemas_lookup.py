"""What goes over the wire where something is looked up: people of an item, items of a user, ids, titles."""

from pydantic import BaseModel, Field

from prismrec.serving.schemas import In, ItemOut


class HowManyIn(In):
    """How long a list is wanted."""

    k: int = Field(10, ge=1, le=1_000, description="Length of the list.")


class HistoryIn(In):
    """How much of a history is wanted."""

    k: int | None = Field(
        None, ge=1, le=1_000, description="The latest so many; left out: as many as the service allows."
    )


class UsersIn(HowManyIn):
    """Which users are wanted."""

    beginning: str = Field("", max_length=256, description="How their ids begin; empty: any.")


class ItemsIn(HowManyIn):
    """Which items are wanted."""

    words: str = Field(
        "", max_length=500, description="Words or parts of words that the title has, letter case aside."
    )


class FanOut(BaseModel):
    """Somebody whom an item is for."""

    user_id: str
    rank: int = Field(description="Place of the item in that person's list, what was taken left out.")
    score: float | None


class FansOut(BaseModel):
    """Those in whose lists an item stands highest."""

    users: list[FanOut]


class HistoryOut(BaseModel):
    """What somebody took."""

    items: list[ItemOut] = Field(description="The latest, oldest first, each once.")
    total: int = Field(description="How many there are in all.")


class UsersOut(BaseModel):
    """User ids, ascending."""

    users: list[str]


class ItemsOut(BaseModel):
    """Items, in the order of their titles."""

    items: list[ItemOut]
