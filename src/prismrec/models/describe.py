"""What a settings class accepts, told for people and programs."""

from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class FieldCard:
    """One setting.

    Parameters
    ----------
    name
        As it is typed.
    type
        What it takes.
    default
        JSON-able.
    bounds
        Such as ``">= 1, <= 4096"``; empty where there are none.
    description
        One sentence or two; empty where the name says it.
    """

    name: str
    type: str
    default: Any
    bounds: str
    description: str


_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def describe_fields(kind: type[BaseModel], defaults: BaseModel) -> list[FieldCard]:
    """Return the settings of a class, in the order in which they stand there.

    Parameters
    ----------
    kind
        The class.
    defaults
        Settings that hold the defaults: those of a preset may differ from the class's own.
    """
    values = defaults.model_dump(mode="json")
    return [_card(name, field, values[name]) for name, field in kind.model_fields.items()]


def _card(name: str, field: FieldInfo, default: Any) -> FieldCard:
    bounds = [
        f"{sign} {getattr(part, key):g}"
        for part in field.metadata
        for key, sign in _SIGNS.items()
        if getattr(part, key, None) is not None
    ]
    return FieldCard(name, _spelled(field.annotation), default, ", ".join(bounds), field.description or "")


def _spelled(annotation: Any) -> str:
    """Write a type the way a person would."""
    if annotation is None or annotation is type(None):
        return "none"
    arguments = get_args(annotation)
    if not arguments:
        return str(getattr(annotation, "__name__", annotation))
    origin = get_origin(annotation)
    if origin is tuple:
        return f"list of {_spelled(arguments[0])}"
    if getattr(origin, "__name__", str(origin)) == "Annotated":
        return _spelled(arguments[0])
    if all(not isinstance(a, type) and isinstance(a, (str, int, float, bool)) for a in arguments):
        return " | ".join(map(str, arguments))
    return " | ".join(map(_spelled, arguments))
