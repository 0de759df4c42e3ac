"""Tests of drawing users and non-users of items."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.data.interactions import Pairs
from prismrec.models.layers.visitors import Visitors


def made(users_of: dict[int, list[int]], n_items: int) -> Visitors:
    rng = np.random.default_rng(0)
    pairs = [(user, item) for item, users in users_of.items() for user in users]
    mixed = np.array(pairs, dtype=np.int32)[rng.permutation(len(pairs))]
    found = Visitors()
    found.fit(Pairs(mixed[:, 0], mixed[:, 1]), n_items)
    return found


# User 4 has no pair, item 3 nor item 0 any user; item 5 was touched by all.
USERS_OF = {1: [0, 2, 9], 2: [7, 1], 4: [3, 5, 6, 8, 0, 1, 2], 5: [0, 1, 2, 3, 5, 6, 7, 8, 9]}
ACTIVE = {0, 1, 2, 3, 5, 6, 7, 8, 9}


def used(visits, row, label):
    return [
        int(user)
        for user, its, weight in zip(visits.users[row], visits.labels[row], visits.weights[row], strict=True)
        if weight > 0 and its == label
    ]


@pytest.mark.parametrize("seed", range(20))
def test_mini_batches_have_the_right_users_and_none_in_common(seed: int) -> None:
    visitors = made(USERS_OF, 6)
    torch.manual_seed(seed)
    items = [4, 1, 5, 2]
    first, second = visitors.draw(torch.tensor(items), 6, torch.ones(4))
    for row, item in enumerate(items):
        own = [*used(first, row, 1), *used(second, row, 1)]
        others = [*used(first, row, 0), *used(second, row, 0)]
        half = min(3, len(USERS_OF[item]) // 2)
        assert len(used(first, row, 1)) == len(used(second, row, 1)) == half
        assert len(set(own)) == len(own)
        assert set(own) <= set(USERS_OF[item])
        assert len(set(others)) == len(others) <= 2 * half
        assert set(others) <= ACTIVE - set(USERS_OF[item])
        assert others or item == 5


def test_weights_say_the_odds_and_add_up_to_one() -> None:
    visitors = made(USERS_OF, 6)
    torch.manual_seed(1)
    for visits in visitors.draw(torch.tensor([1, 4, 5]), 20, torch.tensor([0.25, 3.0, 1.0])):
        own = (visits.weights * visits.labels).sum(dim=1)
        rest = (visits.weights * (1 - visits.labels)).sum(dim=1)
        assert_close(own, torch.tensor([0.2, 0.75, 0.5]))
        found = torch.tensor([len(used(visits, row, 0)) > 0 for row in range(3)])
        # Item 5 was touched by all: there is nobody to stand against its users.
        assert not found[2]
        assert_close(rest, torch.where(found, torch.tensor([0.8, 0.25, 0.0]), 0.0))


def test_everybody_is_drawn_as_often_as_anybody() -> None:
    visitors = made(USERS_OF, 6)
    torch.manual_seed(2)
    rounds = 4000
    own, others = np.zeros(10), np.zeros(10)
    first, _ = visitors.draw(torch.full((rounds,), 1), 2, torch.ones(rounds))
    np.add.at(own, first.users[:, 0].numpy(), 1)
    np.add.at(others, first.users[:, 1].numpy(), 1)
    assert own.sum() == others.sum() == rounds
    # Five standard deviations.
    assert np.abs(own[[0, 2, 9]] - rounds / 3).max() < 5 * np.sqrt(rounds * 2 / 9)
    rest = sorted(ACTIVE - {0, 2, 9})
    assert others[rest].sum() == rounds
    assert np.abs(others[rest] - rounds / 6).max() < 5 * np.sqrt(rounds * 5 / 36)


def test_the_global_generator_decides() -> None:
    visitors = made(USERS_OF, 6)
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(visitors.draw(torch.tensor([4, 1, 2] * 5), 6, torch.ones(15))[0].users)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_it_is_no_part_of_a_state() -> None:
    assert not made(USERS_OF, 6).state_dict()
