"""Pictures in a folder, named by item: ``<item>.jpg``."""

from collections.abc import Collection
from pathlib import Path

from prismrec.data.report import Refusal, Refusals

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")


def pictures_by_item(folder: Path, ids: Collection[str], refused: Refusals) -> dict[str, Path]:
    """Find each item's picture.

    Parameters
    ----------
    folder
        Holds the pictures; other files in it are passed over.
    ids
        The items.
    refused
        Told of pictures that belong to no item, and of second ones of an item.

    Returns
    -------
    dict
        Path by item id.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _EXTENSIONS:
            continue
        if path.stem not in ids:
            refused.add(Refusal(str(path), None, "image", "no such item", item_id=path.stem))
        elif path.stem in found:
            refused.add(Refusal(str(path), None, "image", "a second picture", item_id=path.stem))
        else:
            found[path.stem] = path
    return found
