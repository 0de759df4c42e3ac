import numpy as np
import pytest
import torch

from prismrec.models.base import TripletBatch, UserBatch
from prismrec.models.plan import TrainingPlan
from prismrec.training.batches import Batches


def as_set(pairs):
    return set(zip(pairs.users.tolist(), pairs.items.tolist(), strict=True))


def all_tensors(batch):
    if isinstance(batch, TripletBatch):
        mine = [batch.users, batch.positives, batch.negatives]
    else:
        mine = [batch.users, batch.rows, batch.columns]
    return [*mine, batch.items.codes, batch.items.present, *batch.items.vectors]


@pytest.mark.parametrize("whole", [False, True])
def test_triplets_hold_every_pair_once_with_true_negatives(data, whole):
    plan = TrainingPlan(batch_size=50, negatives=3)
    batches = Batches(data, plan, 0, whole)
    touched = as_set(data.pairs)
    seen = []
    found = list(batches.epoch(1))
    assert len(found) == len(batches) == 4
    for batch in found:
        codes = batch.items.codes.numpy()
        positives, negatives = codes[batch.positives], codes[batch.negatives]
        assert negatives.shape == (len(batch.users), 3)
        seen += zip(batch.users.tolist(), positives.tolist(), strict=True)
        for user, drawn in zip(batch.users.tolist(), negatives.tolist(), strict=True):
            assert all((user, item) not in touched for item in drawn)
            assert set(drawn) <= set(data.warm.tolist())
        if whole:
            assert codes.tolist() == list(range(40))
        else:
            assert sorted(set(codes.tolist())) == codes.tolist()
            assert set(codes.tolist()) == set(positives.tolist()) | set(negatives.ravel().tolist())
    assert sorted(seen) == sorted(touched)


@pytest.mark.parametrize("sampling", ["triplets", "users"])
def test_items_carry_their_own_content(data, sampling):
    for batch in Batches(data, TrainingPlan(sampling=sampling, batch_size=64), 0, False).epoch(1):
        vectors, present = data.features.gather(batch.items.codes.numpy())
        for expected, found in zip(vectors, batch.items.vectors, strict=True):
            np.testing.assert_array_equal(found.numpy(), expected)
        np.testing.assert_array_equal(batch.items.present.numpy(), present)
        assert not batch.items.vectors[1][~batch.items.present[:, 1]].any()


def test_cold_items_are_negatives_only_where_asked_for(data):
    def drawn(where):
        plan = TrainingPlan(negatives=8, negative_items=where)
        (batch,) = Batches(data, plan, 0, False).epoch(1)
        return set(batch.items.codes[batch.negatives].ravel().tolist())

    assert drawn("warm") <= set(data.warm.tolist())
    assert drawn("all") - set(data.warm.tolist())


def test_users_come_whole_and_once_and_only_if_they_have_a_history(data):
    batches = Batches(data, TrainingPlan(sampling="users", batch_size=8), 0, False)
    users, pairs = [], []
    found = list(batches.epoch(1))
    assert len(found) == len(batches) == 4
    for batch in found:
        assert isinstance(batch, UserBatch)
        assert batch.items.codes.tolist() == data.warm.tolist()
        users += batch.users.tolist()
        who, what = batch.users[batch.rows], batch.items.codes[batch.columns]
        pairs += zip(who.tolist(), what.tolist(), strict=True)
    assert sorted(users) == list(range(1, 30))
    assert sorted(pairs) == sorted(as_set(data.pairs))


@pytest.mark.parametrize("sampling", ["triplets", "users"])
def test_an_epoch_follows_from_seed_and_number_alone(data, sampling):
    plan = TrainingPlan(sampling=sampling, batch_size=16)

    def epoch(seed, number, warm_up=0):
        batches = Batches(data, plan, seed, False)
        for earlier in range(warm_up):
            list(batches.epoch(earlier + 1))
        return [tensor for batch in batches.epoch(number) for tensor in all_tensors(batch)]

    third = epoch(0, 3)
    assert all(torch.equal(a, b) for a, b in zip(third, epoch(0, 3, warm_up=2), strict=True))
    for other in (epoch(0, 4), epoch(1, 3)):
        assert not torch.equal(torch.cat([other[0], other[1]]), torch.cat([third[0], third[1]]))
