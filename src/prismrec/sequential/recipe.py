"""Recipes: all steps of a tuning in one TOML file."""

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from prismrec.base.errors import InputError
from prismrec.models.settings import parse_settings


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SftSection(_Section):
    """``[sft]``: the tuning by supervision."""

    model: str | None = Field(None, description="Hub id or folder of the language model.")
    preset: str = Field("published-sft", description="Settings to start from.")
    set: dict[str, Any] = Field({}, description="Settings, by dotted name: {'adapter.rank' = 16}.")


class AlignSection(_Section):
    """``[align]``: the tuning by preference."""

    loss: str = Field("hanorec", description="dpo, s-dpo, dmpo, simpo, beta-dpo or hanorec.")
    preset: str = Field("published-align", description="Settings of the training to start from.")
    set: dict[str, Any] = Field({}, description="Settings, by dotted name: {'noise.sigma' = 0.05}.")


class SequentialRecipe(_Section):
    """What the steps are given; what is typed goes before."""

    about: str = Field("", description="What the recipe is for.")
    prepare: dict[str, Any] = Field({}, description="Settings of the questions.")
    sft: SftSection = Field(SftSection(), description="Supervision.")
    align: AlignSection = Field(AlignSection(), description="Preference.")


def read_recipe(path: Path | None) -> SequentialRecipe:
    """Read a recipe; without a file, one that says nothing.

    Raises
    ------
    InputError
        If the file is missing, is not TOML, or names something unknown.
    """
    if path is None:
        return SequentialRecipe()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.", "Check the path.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: cannot be read as TOML ({error}).", "Check the file.") from None
    return parse_settings(SequentialRecipe, values, str(path))
