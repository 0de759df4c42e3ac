"""What the products of the generated shop look like: three silhouettes for each of ten categories."""

from collections.abc import Callable
from functools import cache

from prismrec.data.sources import generated_belongings as belongings
from prismrec.data.sources import generated_household as household
from prismrec.data.sources.generated_shapes import Parts
from prismrec.data.sources.generated_shop import CATEGORIES

_DRAWN: dict[str, Callable[[int], Parts]] = {
    "mug": household.mug,
    "chair": household.chair,
    "lamp": household.lamp,
    "T-shirt": belongings.shirt,
    "sneaker": belongings.sneaker,
    "backpack": belongings.backpack,
    "vase": household.vase,
    "clock": household.clock,
    "ukulele": belongings.ukulele,
    "radio": belongings.radio,
}


@cache
def silhouette(category: int, shape: int) -> Parts:
    """Return the parts of a product of a category and shape (codes), back to front."""
    return _DRAWN[CATEGORIES[category]](shape)
