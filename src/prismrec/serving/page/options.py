"""What the page is told when it is made, and what its forms may ask."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from prismrec.serving.types import Choice, Drawable, Service, Wish

Short = Annotated[str, StringConstraints(max_length=512)]


@dataclass(frozen=True)
class PageOptions:
    """How the page is set up.

    Parameters
    ----------
    name
        What stands at the top of every page.
    title_field
        Column of the catalogue that holds an item's title.
    texts, fields
        Columns that the form for a new item asks for besides the title: long texts, and others. What is
        entered reaches the service as the kind of value that the items there have in that column.
    columns
        Columns that conditions may name; they are told to whoever writes a condition.
    conditions
        Conditions to choose from, e.g. ``"category=mug"``.
    colour_by
        Columns by which the map can be coloured, the first one first. Columns of lists need not be named: the
        map finds them itself.
    evaluation
        The ``evaluation.json`` of the run; read anew for each request. None: there are no results to show.
    list_length
        How many items a list has where nobody says otherwise.
    max_picture
        Largest picture that is taken in, in bytes.
    secret
        What forms are signed with, at least 32 bytes, the same in all processes that answer. None: drawn,
        which is right for one process.
    """

    name: str = "prismrec"
    title_field: str = "title"
    texts: tuple[str, ...] = ("description",)
    fields: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    colour_by: tuple[str, ...] = ()
    evaluation: Path | None = None
    list_length: int = 12
    max_picture: int = 8 * 2**20
    secret: bytes | None = None


@dataclass(frozen=True)
class Parts:
    """What the page stands on; what is None is not offered.

    Parameters
    ----------
    service
        The run.
    other
        A second run to compare it with.
    drawable
        For the map.
    write
        Dependency of FastAPI that refuses whoever may not write, by raising `HTTPException`. None: the page
        cannot add or delete items.
    """

    service: Service
    other: Service | None = None
    drawable: Drawable | None = None
    write: Callable[..., Any] | None = None


class ListQuery(BaseModel):
    """What kind of list is asked for."""

    model_config = ConfigDict(frozen=True)

    k: int | None = Field(default=None, ge=1, le=100)
    choose: Choice = "all"
    diversity: float = Field(default=0.0, ge=0.0, le=1.0)
    where: list[Short] = Field(default_factory=list, max_length=8)

    def conditions(self) -> tuple[str, ...]:
        """Return the conditions that are not empty."""
        return tuple(text.strip() for text in self.where if text.strip())

    def wish(self, usual: int) -> Wish:
        """Return it as the service understands it.

        Parameters
        ----------
        usual
            The length where none is asked for.
        """
        return Wish(
            k=self.k or usual,
            where=self.conditions(),
            choose=self.choose,
            explain=True,
            diversity=self.diversity,
        )


class PersonQuery(ListQuery):
    """A list for a user."""

    user: Short = ""
    whole: bool = False


class PickQuery(ListQuery):
    """A list for somebody who likes some items."""

    like: list[Short] = Field(default_factory=list, max_length=100)
    q: Short = ""


class ItemQuery(BaseModel):
    """An item, and for whom it is looked at."""

    id: Short
    user: Short = ""
    added: bool = False


class MapQuery(BaseModel):
    """A map."""

    by: Short = ""
    page: int = Field(default=1, ge=1, le=1_000_000)
