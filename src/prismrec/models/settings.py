"""Plain values into typed settings, with errors that name the field and what was expected."""

import difflib
import json
from collections.abc import Mapping
from typing import Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from prismrec.base.errors import ConfigError

SettingsT = TypeVar("SettingsT", bound=BaseModel)


class Settings(BaseModel):
    """Settings: frozen, typed, bounded, documented; an unknown one is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Make settings from plain values.

        Raises
        ------
        ConfigError
            Naming the field, what was expected, and for an unknown field the nearest known one.
        """
        return parse_settings(cls, values, cls.__name__)


def parse_settings(kind: type[SettingsT], values: Mapping[str, Any], of: str) -> SettingsT:
    """Validate plain values into a settings class.

    Raises
    ------
    ConfigError
        Naming the field and what was expected.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(*_explain(error, kind, of)) from None


def _explain(error: ValidationError, kind: type[BaseModel], of: str) -> tuple[str, str | None]:
    first = error.errors()[0]
    if not first["loc"]:
        # A rule between fields: its message names them.
        return f"{of}: {first['msg'].removeprefix('Value error, ')}.", "Change one of them."
    kind, before, rest = _innermost(kind, [str(part) for part in first["loc"]])
    field = ".".join(rest) or "settings"
    name = f"{before}{field}"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, kind.model_fields, n=1, cutoff=0.5)
        known = f"Did you mean {before + near[0]!r}? " if near else ""
        return f"{of}: unknown setting {name!r}.", f"{known}Known: {', '.join(kind.model_fields)}."
    about = kind.model_fields[field].description if field in kind.model_fields else None
    given = json.dumps(first["input"], default=str)
    return f"{of}: setting {name!r} cannot be {given}: {first['msg']}.", about


def _innermost(kind: type[BaseModel], path: list[str]) -> tuple[type[BaseModel], str, list[str]]:
    """Return the settings that a path leads to, the names before them with dots, and what is left.

    Where a setting is one of several kinds of settings, the path also names the kind, which nobody has typed.
    """
    if len(path) < 2 or path[0] not in kind.model_fields:
        return kind, "", path
    inner = _kinds_in(kind.model_fields[path[0]].annotation)
    tagged = [
        one for one in inner if "name" in one.model_fields and one.model_fields["name"].default == path[1]
    ]
    if tagged and len(path) > 2:
        return tagged[0], f"{path[0]}.", path[2:]
    return (inner[0], f"{path[0]}.", path[1:]) if len(inner) == 1 else (kind, "", path)


def _kinds_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in _kinds_in(part)]
