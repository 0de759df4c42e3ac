"""The generated shop's stock: which attributes exist, and which ones each item has.

An attribute is a small integer. What shows it is on purpose uneven, so that each kind of content tells
something that the others do not:

========= ======================= ===========================================
attribute number of values        shown by
========= ======================= ===========================================
category  10                      picture, text; the sound only loosely
shape     3 in each category      picture
colour    10                      picture; the text names it for a third of the items
shade     3                       picture
pattern   7                       picture
material  6                       text (named for most items)
use       6                       text (named for most items)
brand     24                      text (for most items) and the column ``brand``
style     5                       text (for most items); it also shapes the sound
voice     8                       sound
price     a number                the column ``price``
========= ======================= ===========================================
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int8]

CATEGORIES = (
    "mug",
    "chair",
    "lamp",
    "T-shirt",
    "sneaker",
    "backpack",
    "vase",
    "clock",
    "ukulele",
    "radio",
)
COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "grey")
PATTERNS = ("plain", "stripes", "pinstripes", "dots", "checks", "zigzag", "scallops")
STYLES = ("minimal", "retro", "rustic", "playful", "elegant")
BRANDS = (
    "Halvorn",
    "Pinnock & Rye",
    "Tamsel",
    "Oakmerrow",
    "Brindlewick",
    "Kestova",
    "Marrowby",
    "Ulvarra",
    "Fennlight",
    "Corvane Works",
    "Quillon",
    "Osterby Lane",
    "Velmora",
    "Thistle & Tin",
    "Drossel",
    "Yarrowdene",
    "Pellico",
    "Nimbrook",
    "Saltmarch",
    "Jorvane",
    "Emberlow",
    "Wickham Otter",
    "Zellandra",
    "Plumb & Pike",
)
N_SHAPES, N_SHADES, N_MATERIALS, N_USES, N_VOICES = 3, 3, 6, 6, 8

SOUNDING = ("clock", "ukulele", "radio")
"""Categories whose items mostly come with a sound."""

OPENED = 1_672_531_200
"""When the shop opened, seconds since 1970 (1 January 2023)."""

CLOSED = OPENED + 730 * 86_400
"""When the log ends."""

_PRICE = np.array([14.0, 120.0, 65.0, 24.0, 85.0, 70.0, 38.0, 45.0, 95.0, 75.0])
_MATERIAL_PRICE = np.array([1.0, 1.5, 1.1, 0.9, 1.3, 1.05])
_PATTERN_SHARE = np.array([0.28, 0.15, 0.10, 0.14, 0.13, 0.11, 0.09])


class Stream(IntEnum):
    """Independent sources of chance, so that leaving one out changes nothing in the others."""

    ATTRIBUTES = 1
    MISSING = 2
    TEXTS = 3
    PICTURES = 4
    SOUNDS = 5
    TASTES = 6
    LOG = 7


def generator(seed: int, stream: Stream, index: int = 0) -> np.random.Generator:
    """Return the source of chance for one purpose, and for one item or block of it."""
    return np.random.default_rng([seed, int(stream), index])


@dataclass(frozen=True)
class Attributes:
    """What the items really are. Every array has the shape ``(items,)``.

    Parameters
    ----------
    category, shape, colour, shade, pattern, material, use, brand, style, voice
        Codes, int8.
    price
        In units of money, float64.
    released
        When the item came on sale, seconds since 1970, int64.
    in_stock
        Whether it can be bought now.
    has_sound
        Whether the item comes with a sound. Its voice matters to users only then.
    """

    category: Codes
    shape: Codes
    colour: Codes
    shade: Codes
    pattern: Codes
    material: Codes
    use: Codes
    brand: Codes
    style: Codes
    voice: Codes
    price: npt.NDArray[np.float64]
    released: npt.NDArray[np.int64]
    in_stock: npt.NDArray[np.bool_]
    has_sound: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.category)


def draw_attributes(items: int, with_sound: float, seed: int) -> Attributes:
    """Draw the stock.

    Parameters
    ----------
    items
        How many items.
    with_sound
        Share of items that come with a sound; the count is exact. Items of `SOUNDING` categories go first,
        by a factor of 12 in the odds.
    seed
        Seed.
    """
    chance = generator(seed, Stream.ATTRIBUTES)

    def codes(n: int, share: npt.NDArray[np.float64] | None = None) -> Codes:
        return chance.choice(n, size=items, p=share).astype(np.int8)

    category = codes(len(CATEGORIES))
    brand_share = 1.0 / (np.arange(len(BRANDS)) + 4.0)
    brand = codes(len(BRANDS), brand_share / brand_share.sum())
    material = codes(N_MATERIALS)
    tier = np.exp(chance.normal(0.0, 0.3, len(BRANDS)))
    price = _PRICE[category] * _MATERIAL_PRICE[material] * tier[brand]
    price *= np.exp(chance.normal(0.0, 0.2, items))
    # A third of the stock is there on the first day, the rest arrives evenly; the last items are on sale
    # for the last twentieth of the log, so that each can be met with.
    arrival = np.maximum(chance.random(items) * 1.5 - 0.5, 0.0) * 0.95
    odds = np.where(np.isin(category, [CATEGORIES.index(c) for c in SOUNDING]), 12.0, 1.0)
    return Attributes(
        category=category,
        shape=codes(N_SHAPES),
        colour=codes(len(COLOURS)),
        shade=codes(N_SHADES, np.array([0.28, 0.44, 0.28])),
        pattern=codes(len(PATTERNS), _PATTERN_SHARE),
        material=material,
        use=codes(N_USES),
        brand=brand,
        style=codes(len(STYLES)),
        voice=codes(N_VOICES),
        price=np.maximum(np.round(price), 2.0) - 0.05,
        released=(OPENED + arrival * (CLOSED - OPENED)).astype(np.int64),
        in_stock=chance.random(items) < 0.92,
        has_sound=choose_share(odds, with_sound, chance),
    )


def choose_share(
    odds: npt.NDArray[np.float64], share: float, chance: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Choose ``round(share * n)`` of n at random, weighted, without replacement.

    Parameters
    ----------
    odds
        Positive weights, shape ``(n,)``.
    share
        Between 0 and 1.
    chance
        Source of chance.
    """
    race = chance.exponential(size=len(odds)) / odds
    chosen = np.zeros(len(odds), dtype=np.bool_)
    chosen[np.argsort(race, kind="stable")[: round(share * len(odds))]] = True
    return chosen
