from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismrec.data.sources.generated_shop import (
    BRANDS,
    CATEGORIES,
    CLOSED,
    COLOURS,
    OPENED,
    PATTERNS,
    SOUNDING,
    STYLES,
    choose_share,
    draw_attributes,
)


@given(n=st.integers(1, 300), share=st.floats(0, 1), seed=st.integers(0, 1000))
def test_choose_share_chooses_the_exact_number(n, share, seed):
    chosen = choose_share(np.ones(n), share, np.random.default_rng(seed))
    assert chosen.shape == (n,)
    assert chosen.sum() == round(share * n)


def test_choose_share_follows_the_odds():
    # One of two, at odds 3 to 1: the first is chosen three times in four.
    chance = np.random.default_rng(0)
    first = np.mean([choose_share(np.array([3.0, 1.0]), 0.5, chance)[0] for _ in range(4000)])
    assert first == pytest.approx(0.75, abs=0.03)


def test_every_value_of_every_attribute_occurs():
    stock = draw_attributes(5000, 0.3, 1)
    expected = {
        "category": len(CATEGORIES),
        "shape": 3,
        "colour": len(COLOURS),
        "shade": 3,
        "pattern": len(PATTERNS),
        "material": 6,
        "use": 6,
        "brand": len(BRANDS),
        "style": len(STYLES),
        "voice": 8,
    }
    for name, n in expected.items():
        assert set(np.unique(getattr(stock, name))) == set(range(n)), name


def test_attributes_are_independent_of_each_other():
    stock = draw_attributes(20_000, 0.3, 2)
    for one, other in (("category", "pattern"), ("colour", "material"), ("voice", "style")):
        table = np.zeros((24, 24))
        np.add.at(table, (getattr(stock, one), getattr(stock, other)), 1)
        table = table[table.sum(1) > 0][:, table.sum(0) > 0]
        expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
        chi2 = ((table - expected) ** 2 / expected).sum()
        freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
        assert chi2 < freedom + 6 * np.sqrt(2 * freedom)


def test_sounds_go_mostly_to_what_is_heard():
    stock = draw_attributes(2000, 0.3, 0)
    assert stock.has_sound.sum() == 600
    sounding = np.isin(stock.category, [CATEGORIES.index(name) for name in SOUNDING])
    assert stock.has_sound[sounding].mean() > 0.6
    assert 0 < stock.has_sound[~sounding].mean() < 0.25


def test_all_is_on_sale_before_the_log_ends():
    stock = draw_attributes(2000, 0.3, 0)
    assert stock.released.min() == OPENED
    assert stock.released.max() <= OPENED + 0.95 * (CLOSED - OPENED)
    assert (stock.released == OPENED).mean() == pytest.approx(1 / 3, abs=0.05)
    assert (stock.price > 0).all()


def test_the_seed_decides():
    one, again, other = (
        draw_attributes(300, 0.3, 5),
        draw_attributes(300, 0.3, 5),
        draw_attributes(300, 0.3, 6),
    )
    for field in fields(one):
        assert np.array_equal(getattr(one, field.name), getattr(again, field.name))
    assert not np.array_equal(one.category, other.category)
