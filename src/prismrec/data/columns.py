"""Which column of a file plays which role: given by the user, or found by its usual names."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from prismrec.base.errors import InputError
from prismrec.data.readers import Table

Role = Literal["user", "item", "rating", "weight", "timestamp", "position", "image", "audio"]
ROLES: tuple[Role, ...] = get_args(Role)
LOG_ROLES: tuple[Role, ...] = ("user", "item", "rating", "weight", "timestamp", "position")
ITEM_ROLES: tuple[Role, ...] = ("item", "image", "audio")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The name that decides at once; then others, in lower case and without anything but letters and digits.
_OWN_NAME: dict[Role, str] = {"user": "user_id", "item": "item_id"}
_USUAL: dict[Role, frozenset[str]] = {
    "user": _names("userid user uid reviewerid customerid customer memberid accountid profileid visitorid"),
    "item": _names(
        "itemid item iid movieid asin parentasin productid product articleid bookid trackid songid videoid "
        "newsid businessid showid gameid recipeid contentid sku"
    ),
    "rating": _names("rating ratings overall stars score"),
    "weight": _names("weight count playcount plays quantity frequency"),
    "timestamp": _names("timestamp time ts unixreviewtime unixtime date datetime createdat"),
    "position": _names("position order sequence"),
    "image": _names(
        "image picture poster photo img cover thumbnail imagepath imagefile picturepath posterpath imageurl "
        "imgurl imurl pictureurl posterurl coverurl thumbnailurl"
    ),
    "audio": _names("audio sound audiopath audiofile soundpath audiourl soundurl"),
}

_ID_NAME = re.compile(r"(?:^|[_\-. ])(?:id|ids|uuid|guid|asin|sku|isbn)$", re.IGNORECASE)
_CAMEL_ID = re.compile(r"[a-z](?:Id|ID|Ids)$")
_FILE_NAME = re.compile(r"(?:^|[_\-. ])(?:path|file|filename|url|uri|link)s?$|(?:Path|File|Url|URL|Uri)$")
_NO_TEXT = (
    r"^\s*(?:[A-Za-z][A-Za-z0-9+.\-]*://\S*"  # URL
    r"|\d{4}-\d{2}-\d{2}(?:[T ][\d:.,Z+\-]*)?"  # date
    r"|\S+\.[A-Za-z0-9]{2,4})\s*$"  # file name
)


class ColumnMapping(BaseModel):
    """Names of the columns in the user's files. None: find it by the usual names; "": do not use any."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str | None = Field(None, description="Who, in the interactions.")
    item: str | None = Field(None, description="What, in the interactions and in the catalogue.")
    rating: str | None = Field(None, description="A rating.")
    weight: str | None = Field(None, description="How much: a number of plays, say.")
    timestamp: str | None = Field(None, description="When: a number, a date, or an ISO 8601 string.")
    position: str | None = Field(None, description="The order within a user, where there are no times.")
    image: str | None = Field(None, description="Pictures: their bytes, paths or URLs, in the catalogue.")
    audio: str | None = Field(None, description="Sounds: their bytes, paths or URLs, in the catalogue.")

    @staticmethod
    def parse(assignments: Iterable[str]) -> "ColumnMapping":
        """Read assignments as they are typed, ``["user=customer", "rating="]``.

        Raises
        ------
        InputError
            If one is not of the form ``role=column``, or a role is unknown or stands twice.
        """
        given: dict[str, str] = {}
        for text in assignments:
            role, equals, column = text.partition("=")
            if not equals or role not in ROLES:
                raise InputError(
                    f"--column {text!r} is not understood.",
                    f"Write role=column, e.g. user=customer_id. Roles: {', '.join(ROLES)}.",
                )
            if role in given:
                raise InputError(f"--column names two columns for the role {role!r}.")
            given[role] = column
        return ColumnMapping(**given)

    def given(self, role: Role) -> str | None:
        """Return the column given for a role, "" for none on purpose, None if nothing was given."""
        column: str | None = getattr(self, role)
        return column


def find_columns(
    table: Table, roles: Sequence[Role], mapping: ColumnMapping, required: Sequence[Role]
) -> dict[Role, str]:
    """Find the column of each role in a file.

    Parameters
    ----------
    table
        The file.
    roles
        Roles to look for.
    mapping
        What the user said.
    required
        Roles without which the file is no use.

    Returns
    -------
    dict
        Column by role; roles that have none are left out.

    Raises
    ------
    InputError
        If a given column is missing, a required role has no column, two columns would do equally well, or one
        column has two roles.
    """
    found: dict[Role, str] = {}
    for role in roles:
        column = _find(table, role, mapping, roles)
        if column is not None:
            found[role] = column
        elif role in required:
            raise InputError(
                f"{table.path}: none of the columns is known to hold the {role} ids.",
                f"Columns are: {list(table.schema)}. Say which: --column {role}=..." + _separator_hint(table),
            )
    for role, column in found.items():
        other = next((r for r, c in found.items() if c == column and r != role), None)
        if other is not None:
            raise InputError(f"{table.path}: the column {column!r} is taken for both {role} and {other}.")
    return found


def _find(table: Table, role: Role, mapping: ColumnMapping, roles: Sequence[Role]) -> str | None:
    given = mapping.given(role)
    if given == "":
        return None
    if given is not None:
        if given not in table.schema:
            raise InputError(
                f"{table.path}: there is no column {given!r} (given for {role}).",
                f"Columns are: {list(table.schema)}.",
            )
        return given
    taken = {mapping.given(other) for other in ROLES if other != role}
    own = _OWN_NAME.get(role, role)
    if own in table.schema and own not in taken and _fits(table.schema[own], role):
        return own
    # In a log, a column "id" counts the rows.
    usual = _USUAL[role] | ({"id"} if role == "item" and "user" not in roles else set())
    fitting = [c for c, t in table.schema.items() if _plain(c) in usual and c not in taken and _fits(t, role)]
    if len(fitting) > 1:
        raise InputError(
            f"{table.path}: the columns {fitting} could each be the {role}.",
            f"Say which: --column {role}={fitting[0]} (or --column {role}= for none).",
        )
    return fitting[0] if fitting else None


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", column.lower())


def _fits(dtype: pl.DataType, role: Role) -> bool:
    if role in ("image", "audio"):
        return dtype in (pl.String, pl.Binary) or is_embedded(dtype)
    return not dtype.is_nested() and dtype != pl.Binary


def is_embedded(dtype: pl.DataType) -> bool:
    """Tell whether a type is the structure of bytes and path in which data sets embed pictures and sounds."""
    if not isinstance(dtype, pl.Struct):
        return False
    return any(field.name == "bytes" and field.dtype == pl.Binary for field in dtype.fields)


def _separator_hint(table: Table) -> str:
    only = list(table.schema)
    if table.textual and len(only) == 1 and any(mark in only[0] for mark in ";\t|,"):
        return (
            "\n  The header looks as if fields were separated otherwise: .csv means ',' and .tsv means tab."
        )
    return ""


def choose_text_columns(items: pl.DataFrame, wanted: Sequence[str] | None, path: Path) -> tuple[str, ...]:
    """Return the columns that make up an item's text.

    Parameters
    ----------
    items
        The catalogue, media columns taken out.
    wanted
        What the user said; None: every column of strings or lists of strings that is neither empty nor holds
        ids, file names, URLs or dates. The column ``title`` comes first.
    path
        The file, for messages.

    Raises
    ------
    InputError
        If a wanted column is missing or can hold no text.
    """
    if wanted is None:
        chosen = [c for c in items.columns if c != "item_id" and _is_text(items[c])]
        return tuple(sorted(chosen, key=lambda column: column != "title"))
    for column in wanted:
        if column not in items.columns or column == "item_id":
            raise InputError(
                f"{path}: there is no column {column!r} to take text from.",
                f"Columns are: {[c for c in items.columns if c != 'item_id']}.",
            )
        dtype = items.schema[column]
        inner = dtype.inner if isinstance(dtype, pl.List) else dtype
        if inner != pl.String and not inner.is_numeric():
            raise InputError(
                f"{path}: the column {column!r} is {dtype} and holds no text.",
                "Text columns hold strings, numbers, or lists of them.",
            )
    return tuple(dict.fromkeys(wanted))


def _is_text(column: pl.Series) -> bool:
    if _CAMEL_ID.search(column.name) or _ID_NAME.search(column.name) or _FILE_NAME.search(column.name):
        return False
    if isinstance(column.dtype, pl.List):
        return column.dtype.inner == pl.String and column.null_count() < len(column)
    if column.dtype != pl.String:
        return False
    filled = column.drop_nulls()
    return not filled.is_empty() and not filled.str.contains(_NO_TEXT).all()
