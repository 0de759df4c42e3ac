from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.models.batches import ItemBatch, TripletBatch
from prismrec.models.clcrec import CLCRec, CLCRecConfig
from prismrec.models.layers.content import item_batch
from prismrec.models.plan import TrainingPlan
from prismrec.testing import ModelConformance, Planted, planted
from prismrec.training.batches import Batches

PRESETS = CLCRecConfig.presets()


class TestConformance(ModelConformance):
    config = CLCRecConfig(dim=16, hidden=32)
    plan = TrainingPlan(batch_size=128, epochs=20, learning_rate=0.01, negatives=16)


class TestAsPublished(TestConformance):
    config = CLCRecConfig.model_validate(PRESETS["as_published"].model)


class TestAsPublishedForAmazon(TestConformance):
    config = CLCRecConfig.model_validate(PRESETS["as_published_amazon"].model)


class TestUsersAlone(TestConformance):
    config = CLCRecConfig(dim=16, hidden=32, balance=0.0, norm=0.0)


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted()


@pytest.fixture(scope="module")
def sparse() -> Planted:
    """Data in which many items have no content."""
    return planted(missing=0.4)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def built(source: Planted, **changes: Any) -> CLCRec:
    model = CLCRec(CLCRecConfig.model_validate({"dim": 5, "hidden": 8, **changes}), source.data.inputs)
    model.prepare(source.data, None)
    with torch.no_grad():  # Far from the start, where all scores are near 0.
        model.users.mul_(10.0)
        model.items.mul_(10.0)
    return model


def batch_of(source: Planted, model: CLCRec, **changes: object) -> TripletBatch:
    plan = TrainingPlan.model_validate({"batch_size": 40, "negatives": 6, **changes})
    batch = next(iter(Batches(source.data, plan, 0, model.wants_catalog).epoch(1)))
    assert isinstance(batch, TripletBatch)
    return batch


def cross_entropy(scores: list[float]) -> float:
    return float(np.log(np.exp(scores).sum()) - scores[0])


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


def slow_terms(model: CLCRec, batch: TripletBatch, drawn: Any, warm: set[int]) -> dict[str, float]:
    """Pair by pair, slot by slot."""
    config, codes = model.config, batch.items.codes.tolist()
    with torch.no_grad():
        made = model.encoder(model.content(batch.items)).double().numpy()
    users, ids = model.users.detach().double().numpy(), model.items.detach().double().numpy()
    seen = batch.items.present.any(dim=1).tolist()
    places = torch.cat([batch.positives.unsqueeze(1), batch.negatives], dim=1).tolist()
    content, rank, lengths = [], [], []
    for row, (user, slots) in enumerate(zip(batch.users.tolist(), places, strict=True)):
        anchor = unit(ids[codes[slots[0]]])
        if seen[slots[0]]:
            cosines = [anchor @ unit(made[slot]) / config.temperature for slot in slots if seen[slot]]
            content.append(cross_entropy(cosines))
        scores = []
        for column, slot in enumerate(slots):
            known = codes[slot] in warm
            by_content = not known or (bool(drawn[row, column]) and seen[slot])
            vector = made[slot] if by_content else ids[codes[slot]]
            scores.append(users[user] @ vector / config.temperature)
            lengths.append(np.linalg.norm(ids[codes[slot]]) if known else 0.0)
        rank.append(cross_entropy(scores))
    of_users = np.mean([np.linalg.norm(users[user]) for user in batch.users.tolist()])
    return {
        "content": config.balance * float(np.mean(content)),
        "rank": (1 - config.balance) * float(np.mean(rank)),
        "norm": config.norm * (of_users + float(np.mean(lengths))) / 2,
    }


@pytest.mark.parametrize("negative_items", ["warm", "all"])
@pytest.mark.parametrize("replaced", [0.0, 0.4, 1.0])
def test_terms_are_those_of_a_slow_implementation(
    sparse: Planted, replaced: float, negative_items: str
) -> None:
    model = built(sparse, balance=0.3, temperature=0.7, replaced=replaced, norm=0.2)
    batch = batch_of(sparse, model, negative_items=negative_items)
    seen = batch.items.present.any(dim=1)
    assert not seen[batch.positives].all(), "a pair without content belongs into this test"
    torch.manual_seed(11)
    drawn = torch.rand(40, 7) < replaced
    torch.manual_seed(11)
    terms = model.losses(batch)
    expected = slow_terms(model, batch, drawn, set(sparse.data.warm.tolist()))
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert float(terms[name].detach()) == pytest.approx(value, rel=1e-4)


def test_terms_without_weight_are_left_out(source: Planted) -> None:
    batch = batch_of(source, built(source))
    assert set(built(source, balance=1.0).losses(batch)) == {"content", "norm"}
    assert set(built(source, balance=0.0, norm=0.0).losses(batch)) == {"rank"}


def test_warm_items_are_their_identity_cold_ones_their_content(source: Planted) -> None:
    model = built(source).eval()
    items = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
    with torch.no_grad():
        vectors, made = model.item_vectors(items), model.encoder(model.content(items))
    assert torch.equal(vectors[source.data.warm], model.items.detach()[source.data.warm])
    bare = [c for c in source.cold if not items.present[c].any()]
    cold = [c for c in source.cold if c not in bare]
    assert len(bare) == 1
    assert_close(vectors[cold], made[cold])
    assert (vectors[bare] == 0).all()


def test_users_without_pairs_are_zero(source: Planted) -> None:
    model = built(source)
    users = model.user_vectors(torch.arange(source.data.inputs.n_users)).detach()
    assert (users[-1] == 0).all()
    assert (users[:-1] != 0).any(dim=1).all()


def test_embeddings_of_cold_items_are_neither_read_nor_moved(source: Planted) -> None:
    model = built(source)
    batch = batch_of(source, model, batch_size=200, negative_items="all")
    items = item_batch(source.data.features, source.cold)
    assert np.isin(batch.items.codes.numpy(), source.cold).any()
    before, vectors = losses_of(model, batch), model.item_vectors(items).detach()
    with torch.no_grad():
        model.items[source.cold] = 100.0
    assert torch.equal(losses_of(model, batch), before)
    assert torch.equal(model.item_vectors(items).detach(), vectors)
    torch.stack(list(model.losses(batch).values())).sum().backward()
    assert model.items.grad is not None
    assert (model.items.grad[source.cold] == 0).all()
    assert (model.items.grad[source.data.warm] != 0).any()


def losses_of(model: CLCRec, batch: TripletBatch) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.stack(list(model.losses(batch).values())).detach()


def test_a_batch_without_content_still_ranks(source: Planted) -> None:
    model = built(source)
    batch = batch_of(source, model)
    bare = ItemBatch(
        batch.items.codes,
        tuple(torch.zeros_like(v) for v in batch.items.vectors),
        torch.zeros_like(batch.items.present),
    )
    terms = model.losses(TripletBatch(batch.users, bare, batch.positives, batch.negatives))
    assert float(terms["content"].detach()) == 0.0
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_lazy_gradients_are_the_dense_ones_and_hold_the_batch_alone(source: Planted) -> None:
    gradients = []
    for lazy in (True, False):
        torch.manual_seed(0)
        model = built(source)
        model.lazy_rows = lazy
        batch = batch_of(source, model, batch_size=4)
        torch.manual_seed(3)
        torch.stack(list(model.losses(batch).values())).sum().backward()
        assert model.users.grad is not None
        assert model.items.grad is not None
        assert model.items.grad.is_sparse == model.users.grad.is_sparse == lazy
        gradients.append(torch.cat([model.users.grad.to_dense(), model.items.grad.to_dense()]))
    assert_close(gradients[0], gradients[1])
    assert (gradients[0] != 0).any(dim=1).sum() <= len(batch.items) + 4


def test_whole_users_are_refused(source: Planted) -> None:
    plan = TrainingPlan(sampling="users", batch_size=8)
    batch = next(iter(Batches(source.data, plan, 0, False).epoch(1)))
    with pytest.raises(InputError, match="triplets"):
        built(source).losses(batch)
