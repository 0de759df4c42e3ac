"""What goes over the wire: requests, which are checked, and answers, which are documented."""

import base64
import binascii
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from prismrec.serving.problems import invalid
from prismrec.serving.types import Choice, Event, Wish

# Control characters: in an id they would break logs and header lines, and nobody means them.
_ID_PATTERN = r"^[^\x00-\x1f\x7f-\x9f]+$"
_INT64 = 2**63
_LONGEST_TEXT = 100_000
_LONGEST_LIST = 1_000

ModelT = TypeVar("ModelT", bound=BaseModel)


def _attribute(value: Any) -> Any:
    """Check an attribute by hand: a union's error would list every kind that it is not."""
    parts = value if isinstance(value, list) else [value]
    if len(parts) > _LONGEST_LIST:
        raise ValueError(f"a list has at most {_LONGEST_LIST:,} elements")
    for part in parts:
        if isinstance(part, list | dict):
            raise ValueError(  # noqa: TRY004 - pydantic reports ValueError only
                "expected text, a number, true, false, null, or a list of these"
            )
        if isinstance(part, str) and len(part) > _LONGEST_TEXT:
            raise ValueError(f"a text has at most {_LONGEST_TEXT:,} characters")
        if isinstance(part, int) and not -_INT64 <= part < _INT64:
            raise ValueError("a whole number has at most 64 bits")
        if isinstance(part, float) and not abs(part) < float("inf"):
            raise ValueError("a number must be finite")
    return value


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64 (RFC 4648, standard alphabet, padded, no line breaks)") from None


def _plain(value: Any) -> Any:
    # The path comes still quoted (see `prismrec.serving.security`), so that an id may hold a slash.
    return unquote(value, errors="strict") if isinstance(value, str) else value


Id = Annotated[str, Field(min_length=1, max_length=256, pattern=_ID_PATTERN)]
PathId = Annotated[Id, BeforeValidator(_plain)]
Condition = Annotated[str, Field(min_length=1, max_length=500)]
Conditions = Annotated[
    tuple[Condition, ...],
    Field(
        max_length=20, description="Conditions on attributes, all of them met: `price<20`, `category=mug`."
    ),
]
_scalars = [{"type": kind} for kind in ("string", "number", "boolean", "null")]
Attribute = Annotated[
    Any,
    AfterValidator(_attribute),
    WithJsonSchema({"anyOf": [*_scalars, {"type": "array", "items": {"anyOf": _scalars}}]}),
]
Attributes = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=128, pattern=_ID_PATTERN)], Attribute],
    Field(max_length=200, description="By column of the catalogue; columns that are left out are null."),
]
Picture = Annotated[
    bytes,
    BeforeValidator(_decoded),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "Encoded file, base64."}),
]
# Milliseconds, a common slip, lie far beyond the year 3000.
Timestamp = Annotated[float, Field(ge=0.0, le=32_503_680_000.0, description="Seconds since 1970.")]
Liked = Annotated[tuple[Id, ...], Field(max_length=1_000, description="Item ids, oldest first.")]


class In(BaseModel):
    """Any part of a request."""

    # What is not known is refused: a misspelt setting would otherwise be lost silently.
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class WishIn(In):
    """What kind of list is wanted."""

    k: int = Field(10, ge=1, le=1_000, description="Length of the list.")
    where: Conditions = ()
    choose: Choice = Field("all", description="All items, only new ones, or only others.")
    exclude_seen: bool = Field(True, description="Leave out what the person took.")
    explain: bool = Field(False, description="With reasons.")
    diversity: float = Field(0.0, ge=0.0, le=1.0, description="0: the best; up to 1: the less alike.")

    def wish(self) -> Wish:
        """Return it as the service takes it."""
        return Wish(self.k, self.where, self.choose, self.exclude_seen, self.explain, self.diversity)


class TakenIn(In):
    """An item that somebody without a name took."""

    item_id: Id
    timestamp: Timestamp


class AnonymousIn(WishIn):
    """A list for somebody without a name: by the items that they like, or by their events."""

    liked: Liked = ()
    events: tuple[TakenIn, ...] = Field((), max_length=1_000, description="In any order.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if bool(self.liked) == bool(self.events):
            raise ValueError("give 'liked' or 'events', with at least one item, and not both")
        return self

    def taken(self) -> tuple[str, ...]:
        """Return the item ids, oldest first."""
        if self.liked:
            return self.liked
        return tuple(event.item_id for event in sorted(self.events, key=lambda event: event.timestamp))


class ItemIn(In):
    """An item whose id stands in the path."""

    attributes: Attributes = {}
    picture: Picture | None = None


class BatchItemIn(ItemIn):
    """An item of several."""

    item_id: Id
    picture_part: str | None = Field(
        None, min_length=1, max_length=256, description="Multipart only: name of the part with the picture."
    )


class BatchIn(In):
    """Items to add or replace; where one is not of the form or has a bad picture, none is stored."""

    items: tuple[BatchItemIn, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _once(self) -> Self:
        if len({item.item_id for item in self.items}) < len(self.items):
            raise ValueError("'items' holds an id twice")
        return self


class EventIn(In):
    """Somebody took an item."""

    user_id: Id
    item_id: Id
    timestamp: Timestamp | None = Field(None, description="Seconds since 1970; left out: now.")

    def event(self) -> Event:
        """Return it as the service takes it."""
        return Event(self.user_id, self.item_id, self.timestamp)


class EventsIn(In):
    """Events to record."""

    events: tuple[EventIn, ...] = Field(min_length=1)


class ItemOut(BaseModel):
    """An item."""

    item_id: str
    title: str
    attributes: dict[str, Any]
    has_picture: bool
    new: bool = Field(description="Nobody had touched it when the model was trained.")
    ranked: bool = Field(description="It can be recommended.")


class LikeOut(BaseModel):
    """An item that the person took, and how like it is (cosine)."""

    item_id: str
    similarity: float | None


class ReasonOut(BaseModel):
    """Why an item is recommended."""

    weights: dict[str, float | None]
    experts: dict[str, list[float | None]]
    because: list[LikeOut]


class RankedOut(BaseModel):
    """One place of a list."""

    rank: int
    score: float | None
    item: ItemOut
    reason: ReasonOut | None


class AnswerOut(BaseModel):
    """A list, best first."""

    items: list[RankedOut]
    model: str = Field(description="Version of the bundle that answered.")
    fallback: bool = Field(description="Nothing was known of the person: the list is for the average one.")
    reranked: bool = Field(description="A language model put it in order.")


class ProblemOut(BaseModel):
    """What went wrong with an item; whether it is stored all the same, `refused` says."""

    item_id: str
    field: str
    reason: str


class PutOut(BaseModel):
    """What became of items, by id."""

    added: list[str]
    updated: list[str]
    unchanged: list[str]
    without_content: list[str] = Field(description="Stored, but cannot be recommended.")
    refused: list[str] = Field(description="Not stored; `problems` says why.")
    problems: list[ProblemOut]


class DeletedOut(BaseModel):
    """What was removed."""

    deleted: list[str]


class RecordedOut(BaseModel):
    """How many events were taken in."""

    recorded: int


class AliveOut(BaseModel):
    """The process answers."""

    status: Literal["alive"]


class ReadyOut(BaseModel):
    """Whether requests are answered."""

    ready: bool


class HealthOut(BaseModel):
    """How the service is."""

    ready: bool
    model: str
    version: str
    items: int
    ranked: int
    users: int
    search: str
    recall: float | None


class ErrorOut(BaseModel):
    """Any refusal."""

    error: str = Field(description="One word for programs.")
    problem: str = Field(description="What is wrong, for people.")
    hint: str = Field(description="What to do about it.")
    request_id: str = Field(description="Stands in the service's log.")


REQUESTS = (AnonymousIn, ItemIn, BatchIn, EventsIn)
"""Bodies of requests, for the OpenAPI document."""


def parse(kind: type[ModelT], body: bytes) -> ModelT:
    """Check a JSON body.

    Raises
    ------
    RequestError
        400 if it is not JSON in UTF-8 or is nested too deep, 422 if it is not of the form.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_input=False, include_context=False)) from None
