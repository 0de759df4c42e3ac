import numpy as np
import pytest
import torch

from prismrec.base.errors import InputError
from prismrec.evaluation.adversary import _training_triplets, attack, why_not
from prismrec.evaluation.corruption import Shifted
from prismrec.models.alignrec import AlignRecConfig
from prismrec.models.batches import ItemBatch
from prismrec.models.bpr_mf import BPRMFConfig
from prismrec.models.layers.content import item_batch
from prismrec.models.local_kernel import LocalKernelConfig
from prismrec.models.mtpr import MTPRConfig
from prismrec.models.plan import TrainingPlan
from prismrec.testing import fitted, planted

PLAN = TrainingPlan(epochs=15, batch_size=512, learning_rate=0.02, row_updates="dense")


@pytest.fixture(scope="module")
def source():
    return planted()


@pytest.fixture(scope="module")
def model(source):
    return fitted(MTPRConfig(dim=8), PLAN, source)


def candidates(source, kind):
    n = source.data.inputs.n_items
    return {"cold": source.cold, "warm": source.data.warm, "all": np.arange(n, dtype=np.int32)}[kind]


@pytest.mark.parametrize("kind", ["cold", "warm", "all"])
def test_the_loss_rises_within_the_ball(source, model, kind):
    codes = candidates(source, kind)
    state = {name: tensor.clone() for name, tensor in model.state().items()}
    model.zero_grad(set_to_none=True)
    found = attack(model, source.data, codes, 0.2, seed=1)
    items = item_batch(source.data.features, codes)
    for place, shift in enumerate(found.shifts):
        radius = 0.2 * items.vectors[place].norm(dim=1).numpy()
        lengths = np.linalg.norm(shift, axis=1)
        assert (lengths <= radius * (1 + 1e-5)).all()
        assert (lengths[~items.present[:, place].numpy()] == 0).all()
    moved = [np.linalg.norm(shift, axis=1) for shift in found.shifts]
    assert (moved[0] > 0).mean() > 0.5
    # Steps of 2.5 radius / 10 leave no reason to stay far inside.
    radius = 0.2 * items.vectors[0].norm(dim=1).numpy()
    assert np.median(moved[0][moved[0] > 0] / radius[moved[0] > 0]) > 0.95
    assert found.loss_after > found.loss_before + 0.02
    twin = found.random_twin(0)
    for shift, other in zip(found.shifts, twin, strict=True):
        np.testing.assert_allclose(
            np.linalg.norm(other, axis=1), np.linalg.norm(shift, axis=1), rtol=1e-4, atol=1e-6
        )
    for name, tensor in model.state().items():
        assert torch.equal(tensor, state[name])
    assert all(p.grad is None for p in model.parameters())


@torch.no_grad()
def agreement(model, source, features):
    """Mean score of held-out pairs above that of all items of the part."""
    codes = np.unique(source.test.items)
    users = model.user_vectors(torch.from_numpy(source.test.users.astype(np.int64)))
    vectors = model.item_vectors(item_batch(features, codes))
    own = (users * vectors[np.searchsorted(codes, source.test.items)]).sum(dim=1)
    return float((own - (users @ vectors.T).mean(dim=1)).mean())


def test_it_does_more_harm_than_chance(source, model):
    codes = candidates(source, "cold")
    found = attack(model, source.data, codes, 0.3, seed=1)
    sound = source.data.features
    hurt = agreement(model, source, Shifted(sound, codes, found.shifts, "attack"))
    twins = [Shifted(sound, codes, found.random_twin(seed), "random") for seed in range(8)]
    chance = np.mean([agreement(model, source, twin) for twin in twins])
    clean = agreement(model, source, sound)
    assert clean - hurt > 0.2 * clean
    assert clean - hurt > 3 * abs(clean - chance)


def test_a_larger_ball_is_worse(source, model):
    losses = [attack(model, source.data, source.cold, r, seed=1).loss_after for r in (0.05, 0.2, 0.6)]
    assert losses == sorted(losses)
    same = attack(model, source.data, source.cold, 0.2, seed=1)
    assert same.loss_after == losses[1]


def test_one_step_goes_along_the_gradient(source, model):
    # Against autograd through everything at once, on the triplets of the same seed.
    codes, data = source.data.warm, source.data
    found = attack(model, data, codes, 0.1, steps=1, seed=5)
    users, positives, negatives = _training_triplets(data, codes, np.random.default_rng(5))
    items = item_batch(data.features, codes)
    leaves = [v.clone().requires_grad_(True) for v in items.vectors]
    vectors = model.item_vectors(ItemBatch(items.codes, tuple(leaves), items.present))
    who = model.user_vectors(torch.from_numpy(users.astype(np.int64))).detach()
    gaps = (
        who * (vectors[np.searchsorted(codes, negatives)] - vectors[np.searchsorted(codes, positives)])
    ).sum(dim=1)
    gradients = torch.autograd.grad(torch.nn.functional.softplus(gaps).mean(), leaves)
    for place, gradient in enumerate(gradients):
        there = items.present[:, place] & (gradient.norm(dim=1) > 0)
        expected = (
            0.1
            * items.vectors[place].norm(dim=1, keepdim=True)
            * torch.nn.functional.normalize(gradient, dim=1, eps=1e-30)
        )
        np.testing.assert_allclose(found.shifts[place][there], expected[there].numpy(), rtol=1e-2, atol=1e-4)


def test_who_cannot_be_attacked_says_why(source, model):
    assert why_not(model, source.data.features, source.cold) is None
    inputs = source.data.inputs
    graph = AlignRecConfig(dim=8).build(inputs)
    assert "tables or graphs" in why_not(graph, source.data.features, source.cold)
    plain = BPRMFConfig(dim=8).build(inputs)
    assert "no gradient" in why_not(plain, source.data.features, source.data.warm)
    kernel = fitted(LocalKernelConfig(), PLAN, source)
    assert "no gradient" in why_not(kernel, source.data.features, source.cold)
    bare = np.flatnonzero(~source.data.features.present.any(axis=1)).astype(np.int32)
    assert "content" in why_not(model, source.data.features, bare)
    with pytest.raises(InputError, match="not applicable"):
        attack(graph, source.data, source.cold, 0.1)
    with pytest.raises(InputError, match="above 0"):
        attack(model, source.data, source.cold, 0.0)
