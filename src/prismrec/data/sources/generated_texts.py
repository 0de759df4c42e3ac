"""Titles and descriptions of the generated shop: sentences put together from an item's attributes.

The texts name material, use, brand and style, each for most items and in several wordings, and sometimes the
colour. They never name shape, shade, pattern or voice: those are for the picture and the sound to tell.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from prismrec.data.sources.generated_shop import BRANDS, Attributes, Stream, generator

_NOUNS = (
    ("mug", "coffee mug", "tea mug", "cup"),
    ("chair", "dining chair", "accent chair", "seat"),
    ("lamp", "reading lamp", "light", "bedside lamp"),
    ("T-shirt", "tee", "jersey top", "everyday top"),
    ("sneaker", "trainer", "low-key shoe", "walking shoe"),
    ("backpack", "rucksack", "daypack", "bag"),
    ("vase", "flower vase", "bud vase", "vessel"),
    ("clock", "timepiece", "shelf clock", "wake-up clock"),
    ("ukulele", "soprano ukulele", "four-string", "little guitar"),
    ("radio", "kitchen radio", "portable radio", "speaker"),
)

# One row per category, one word per material; neighbours in a column are kin, so that a taste for the
# recycled or the handmade carries over from mugs to chairs.
_MATERIALS = (
    ("stoneware", "bone china", "enamelled steel", "recycled glass", "hand-thrown clay", "insulated glass"),
    (
        "solid oak",
        "velvet over beech",
        "tubular steel",
        "reclaimed pine",
        "hand-woven rattan",
        "moulded shell",
    ),
    (
        "natural bamboo",
        "pleated silk",
        "coated steel",
        "recycled aluminium",
        "hand-blown glass",
        "slim acrylic",
    ),
    ("natural cotton", "silk blend", "heavy twill", "recycled cotton", "hand-dyed linen", "quick-dry knit"),
    (
        "natural canvas",
        "calf leather",
        "tough ripstop",
        "recycled mesh",
        "hand-stitched suede",
        "technical knit",
    ),
    (
        "waxed cotton",
        "saddle leather",
        "tough nylon",
        "recycled sailcloth",
        "hand-woven wool",
        "technical shell",
    ),
    (
        "raw terracotta",
        "fine porcelain",
        "hammered brass",
        "recycled glass",
        "hand-thrown clay",
        "cast resin",
    ),
    (
        "solid walnut",
        "polished brass",
        "brushed steel",
        "recycled plastic",
        "hand-turned ash",
        "slim acrylic",
    ),
    ("solid mahogany", "flamed koa", "spun steel", "reclaimed cedar", "hand-carved acacia", "carbon fibre"),
    (
        "natural bamboo",
        "walnut veneer",
        "die-cast steel",
        "recycled plastic",
        "hand-finished birch",
        "soft shell",
    ),
)
_STYLES = (
    ("minimal", "pared-back", "clean-lined"),
    ("retro", "mid-century", "vintage-inspired"),
    ("rustic", "farmhouse", "country-style"),
    ("playful", "cheerful", "quirky"),
    ("elegant", "refined", "graceful"),
)
_USES = (
    ("everyday use", "daily life", "the weekday routine"),
    ("birthdays and housewarmings", "giving as a present", "someone who has everything"),
    ("weekends away", "travelling light", "life on the road"),
    ("small flats", "tight corners", "compact homes"),
    ("the garden and the balcony", "long days outdoors", "campsites and picnics"),
    ("the home office", "a busy studio", "long working days"),
)
_COLOURS = (
    ("red", "cherry", "brick red"),
    ("orange", "tangerine", "apricot"),
    ("yellow", "mustard", "honey"),
    ("green", "moss green", "sage"),
    ("teal", "petrol", "sea green"),
    ("blue", "cobalt", "denim blue"),
    ("purple", "plum", "lavender"),
    ("pink", "rose", "blush"),
    ("brown", "chestnut", "cocoa"),
    ("grey", "slate", "pebble grey"),
)
_ABOUT_MATERIAL = ("Made of {0}.", "We chose {0} for it.", "The material is {0}.", "Crafted in {0}.")
_ABOUT_STYLE = (
    "It has {a} {0} look.",
    "A {noun} for those who like things {0}.",
    "The design is {0} without trying hard.",
)
_ABOUT_USE = ("Ideal for {0}.", "Best for {0}.", "Our first choice for {0}.", "Designed with {0} in mind.")
_ABOUT_BRAND = ("From the {0} range.", "{0} makes it in small batches.", "Another favourite by {0}.")
_ABOUT_COLOUR = ("Shown in {0}.", "The picture shows it in {0}.", "In {0}.")
_SMALL_TALK = (
    "Ships within two days.",
    "Two-year guarantee.",
    "Packed without waste.",
    "Easy to clean.",
    "A customer favourite.",
    "New in our shop.",
    "Free returns within a month.",
    "Spare parts are available.",
)

# How often a text names an attribute that it may name.
MENTIONS = {"material": 0.8, "use": 0.8, "style": 0.7, "brand": 0.7, "colour": 0.35}


def write_texts(attributes: Attributes, seed: int) -> Iterator[tuple[str, str]]:
    """Write each item's title and description, in the order of the items.

    Parameters
    ----------
    attributes
        The stock.
    seed
        Seed.

    Yields
    ------
    tuple of str
        Title and description.
    """
    chance = generator(seed, Stream.TEXTS)
    # Drawn in one piece: a call per item and choice would take most of the time at a million items.
    dice = chance.integers(0, 2**16, size=(len(attributes), 16), dtype=np.uint16)
    named = chance.random((len(attributes), len(MENTIONS))) < np.array(list(MENTIONS.values()))
    codes = np.stack(
        [
            attributes.category,
            attributes.material,
            attributes.use,
            attributes.style,
            attributes.brand,
            attributes.colour,
        ],
        axis=1,
    )
    for item in range(len(attributes)):
        yield _write(codes[item].tolist(), dice[item].tolist(), named[item].tolist())


def _write(codes: list[int], dice: list[int], named: list[bool]) -> tuple[str, str]:
    category, material_code, use_code, style_code, brand_code, colour_code = codes
    noun = _pick(_NOUNS[category], dice[0])
    material = _MATERIALS[category][material_code] if named[0] else ""
    use = _pick(_USES[use_code], dice[1]) if named[1] else ""
    style = _pick(_STYLES[style_code], dice[2]) if named[2] else ""
    brand = BRANDS[brand_code] if named[3] else ""
    colour = _pick(_COLOURS[colour_code], dice[3]) if named[4] else ""
    title, told = _title(noun, material, style, brand, dice)

    sentences = []
    if material and "material" not in told:
        sentences.append(_pick(_ABOUT_MATERIAL, dice[4]).format(material))
    if style and "style" not in told:
        sentences.append(_pick(_ABOUT_STYLE, dice[5]).format(style, a=_article(style), noun=noun))
    if use:
        sentences.append(_pick(_ABOUT_USE, dice[6]).format(use))
    if brand and "brand" not in told:
        sentences.append(_pick(_ABOUT_BRAND, dice[7]).format(brand))
    if colour:
        sentences.append(_pick(_ABOUT_COLOUR, dice[8]).format(colour))
    sentences.append(_pick(_SMALL_TALK, dice[9]))
    turn = dice[10] % len(sentences)
    return title, " ".join(sentences[turn:] + sentences[:turn])


def _title(noun: str, material: str, style: str, brand: str, dice: list[int]) -> tuple[str, set[str]]:
    """Put together a title; also say what it has told, so that the description need not."""
    told = set()
    words = noun
    if style and dice[11] % 3:
        words = f"{style} {words}"
        told.add("style")
    if material and dice[12] % 2:
        words = f"{words} in {material}"
        told.add("material")
    words = words[0].upper() + words[1:]
    if brand and dice[13] % 3:
        words = f"{brand}: {words}" if dice[14] % 2 else f"{words} by {brand}"
        told.add("brand")
    return words, told


def _pick(options: Sequence[str], die: int) -> str:
    return options[die % len(options)]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
