import re
from dataclasses import replace

import numpy as np
import pytest

from prismrec.data.sources.generated_shop import BRANDS, PATTERNS, draw_attributes
from prismrec.data.sources.generated_texts import MENTIONS, write_texts

STOCK = draw_attributes(1000, 0.3, 0)
TEXTS = list(write_texts(STOCK, 0))


def test_one_title_and_description_per_item_in_many_wordings():
    assert len(TEXTS) == 1000
    assert len({title for title, _ in TEXTS}) > 600
    assert len({description for _, description in TEXTS}) > 900


def test_sentences_are_sentences():
    for title, description in TEXTS:
        assert title[0].isupper()
        assert description.endswith(".")
        for sentence in description.split(". "):
            assert sentence[0].isupper()
        assert not re.search(r"[{}]|  |\ba [aeiou]|\ban [^aeiou]", title + " " + description)


def test_what_only_pictures_and_sounds_tell_is_not_in_the_text():
    zeros = np.zeros(1000, dtype=np.int8)
    hidden = replace(STOCK, shape=zeros, shade=zeros, pattern=zeros, voice=zeros)
    assert list(write_texts(hidden, 0)) == TEXTS
    words = set(re.findall(r"\w+", " ".join(t + " " + d for t, d in TEXTS).lower()))
    assert not words & set(PATTERNS)


@pytest.mark.parametrize("brand", [0, 7, 13])
def test_a_brand_is_named_as_often_as_said(brand):
    stock = replace(STOCK, brand=np.full(1000, brand, dtype=np.int8))
    named = np.mean([BRANDS[brand] in f"{title} {text}" for title, text in write_texts(stock, 0)])
    assert named == pytest.approx(MENTIONS["brand"], abs=0.05)


@pytest.mark.parametrize("attribute", ["material", "use", "style", "colour"])
def test_an_attribute_changes_as_many_texts_as_name_it(attribute):
    changed = replace(STOCK, **{attribute: (getattr(STOCK, attribute) + 1) % 5})
    differ = np.mean([a != b for a, b in zip(TEXTS, write_texts(changed, 0), strict=True)])
    # The code of those that stand at 5 may stay as it is.
    same = np.mean(getattr(STOCK, attribute) == (getattr(STOCK, attribute) + 1) % 5)
    assert differ == pytest.approx(MENTIONS[attribute] * (1 - same), abs=0.06)


def test_nothing_is_told_twice():
    for title, description in TEXTS:
        for brand in BRANDS:
            assert f"{title} {description}".count(brand) <= 1


def test_the_seed_decides():
    assert list(write_texts(STOCK, 0)) == TEXTS
    assert list(write_texts(STOCK, 1)) != TEXTS
