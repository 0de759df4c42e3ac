"""The file ``encoder.json`` in an encoder's folder: which class wrote it, and its settings."""

from pathlib import Path
from typing import Any

from prismrec.base.errors import DamagedError, InputError
from prismrec.base.files import read_json, write_json

FORMAT = "prismrec-encoder"
FORMAT_VERSION = 1
FILE = "encoder.json"


def write_encoder_file(folder: Path, class_name: str, settings: dict[str, Any]) -> None:
    """Write ``encoder.json``. Call it last: a folder without it holds no encoder.

    Parameters
    ----------
    folder
        Made if need be.
    class_name
        Class that reads the folder again.
    settings
        What that class needs for it, JSON-able.
    """
    write_json(
        folder / FILE,
        {"format": FORMAT, "format_version": FORMAT_VERSION, "class": class_name, "settings": settings},
    )


def read_encoder_file(folder: Path) -> tuple[str, dict[str, Any]]:
    """Read ``encoder.json``.

    Returns
    -------
    class_name
        Class that wrote it.
    settings
        Its settings.

    Raises
    ------
    InputError
        If the folder holds no encoder, or one of a newer prismrec.
    DamagedError
        If the file is damaged.
    """
    content = read_json(folder / FILE, "an encoder")
    if content.get("format") != FORMAT:
        raise InputError(f"{folder}: this is not an encoder of prismrec.")
    version, name, settings = (content.get(key) for key in ("format_version", "class", "settings"))
    if not (isinstance(version, int) and isinstance(name, str) and isinstance(settings, dict)):
        raise DamagedError(f"{folder / FILE}: the file is damaged, a field is missing.", "Encode again.")
    if version > FORMAT_VERSION:
        raise InputError(f"{folder}: written by a newer prismrec.", "Install the newer version.")
    return name, settings
