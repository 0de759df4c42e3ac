import numpy as np
import pytest
import torch

from prismrec.models.batches import TripletBatch, UserBatch
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


def codes(batch):
    items = batch.items.codes
    return batch.users.tolist(), items[batch.positives].tolist(), items[batch.negatives].tolist()


SAMPLERS = {
    "uniform": {},
    "popularity": {"negative_sampling": "popularity"},
    "in-batch": {"negative_sampling": "in-batch"},
    "by-item": {"grouping": "items"},
    "by-item-in-batch": {"grouping": "items", "negative_sampling": "in-batch"},
}


@pytest.mark.parametrize("whole", [False, True], ids=["batch", "catalog"])
@pytest.mark.parametrize("how", SAMPLERS)
def test_however_drawn_each_pair_comes_once_with_true_negatives(data, how, whole):
    plan = TrainingPlan(batch_size=16, negatives=2, **SAMPLERS[how])
    batches = Batches(data, plan, 0, whole)
    touched, seen = as_set(data.pairs), []
    found = list(batches.epoch(1))
    assert len(found) == len(batches)
    for batch in found:
        users, positives, negatives = codes(batch)
        seen += zip(users, positives, strict=True)
        for user, drawn in zip(users, negatives, strict=True):
            assert all((user, item) not in touched for item in drawn)
    assert sorted(seen) == sorted(touched)
    again = [all_tensors(batch) for batch in Batches(data, plan, 0, whole).epoch(1)]
    for one, two in zip([all_tensors(batch) for batch in found], again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    other = torch.cat([batch.users for batch in batches.epoch(2)])
    assert not torch.equal(other, torch.cat([batch.users for batch in found]))


@pytest.mark.parametrize("how", SAMPLERS)
def test_triplets_are_what_the_batches_hold(data, how):
    plan = TrainingPlan(batch_size=50, negatives=3, **SAMPLERS[how])
    batches = Batches(data, plan, 4, False)
    users, positives, negatives = batches.triplets(7)
    held = [codes(batch) for batch in batches.epoch(7)]
    assert users.tolist() == [user for batch in held for user in batch[0]]
    assert positives.tolist() == [item for batch in held for item in batch[1]]
    assert negatives.tolist() == [drawn for batch in held for drawn in batch[2]]


def test_grouping_by_items_keeps_an_items_pairs_together_in_an_order_that_changes(data):
    batches = Batches(data, TrainingPlan(grouping="items"), 0, False)
    orders = []
    for epoch in (1, 2):
        users, positives, _ = batches.triplets(epoch)
        ends = np.flatnonzero(np.diff(positives)) + 1
        runs = [run[0] for run in np.split(positives, ends)]
        assert sorted(runs) == data.warm.tolist()
        orders.append((runs, users.tolist()))
    assert orders[0][0] != orders[1][0]
    # An item's users change their order too.
    busiest = int(np.bincount(data.pairs.items).argmax())
    within = [batches.triplets(epoch) for epoch in (1, 2)]
    first, second = (users[positives == busiest].tolist() for users, positives, _ in within)
    assert sorted(first) == sorted(second)
    assert first != second


def test_negatives_of_a_batch_are_items_of_the_batch(data):
    plan = TrainingPlan(batch_size=60, negatives=2, negative_sampling="in-batch")
    for batch in Batches(data, plan, 0, False).epoch(1):
        _, positives, negatives = codes(batch)
        assert set(np.ravel(negatives).tolist()) <= set(positives)


def test_a_user_who_touched_all_that_the_batch_holds_gets_negatives_from_everywhere(data):
    plan = TrainingPlan(batch_size=1, negatives=4, negative_sampling="in-batch")
    drawn = {item for batch in Batches(data, plan, 0, False).epoch(1) for item in np.ravel(codes(batch)[2])}
    assert drawn == set(data.warm.tolist())


def test_popular_items_are_drawn_more_often(data):
    def mean_count(**how):
        plan = TrainingPlan(negatives=32, **how)
        counts = np.bincount(data.pairs.items, minlength=40)
        return counts[Batches(data, plan, 0, False).triplets(1)[2]].mean()

    uniform = mean_count()
    assert mean_count(negative_sampling="popularity", popularity_power=0.0) == pytest.approx(
        uniform, rel=0.05
    )
    assert mean_count(negative_sampling="popularity", popularity_power=1.0) > 1.15 * uniform
