from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.models.batches import ItemBatch, TripletBatch
from prismrec.models.gar import GAR, GARConfig
from prismrec.models.layers.backbone import backbone_of
from prismrec.models.layers.content import item_batch
from prismrec.models.plan import TrainingPlan
from prismrec.testing import ModelConformance, Planted, planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit

PUBLISHED = GARConfig.presets()["as_published"].model
RECOMMENDER, GENERATOR = GAR.turns


class TestConformance(ModelConformance):
    config = GARConfig(dim=16, hidden=32)
    plan = TrainingPlan(batch_size=128, epochs=25, learning_rate=5e-3)


class TestAsPublished(ModelConformance):
    config = PUBLISHED.model_copy(update={"dim": 16, "hidden": 32})
    # Stopped early: with nine tenths of the mixture made, the towers come to rank whatever is made below all
    # that is true, and longer training leaves cold items ranked by chance.
    plan = TrainingPlan(batch_size=128, epochs=10, learning_rate=1e-3)
    least_auc = 0.6


class TestSingularVectorsAndManyNegatives(ModelConformance):
    config = GARConfig(dim=8, hidden=32, backbone="svd", l2=0.0)
    plan = TrainingPlan(batch_size=128, epochs=25, learning_rate=5e-3, negatives=3)


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


def built(source: Planted, **changes: Any) -> GAR:
    """A model without dropout, with running statistics that are not those of the start."""
    settings = {"dim": 6, "hidden": 10, "generator_dropout": 0.0, "tower_dropout": 0.0, **changes}
    model = GAR(GARConfig.model_validate(settings), source.data.inputs)
    model.prepare(source.data, None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.copy_(0.1 * torch.randn(module.num_features))
            module.running_var.copy_(0.5 + torch.rand(module.num_features))
    return model.train()


def batch_of(source: Planted, model: GAR, **changes: object) -> TripletBatch:
    plan = TrainingPlan.model_validate({"batch_size": 16, "negatives": 2, **changes})
    batch = next(iter(Batches(source.data, plan, 0, model.wants_catalog).epoch(1)))
    assert isinstance(batch, TripletBatch)
    return batch


def slow_network(network: nn.Sequential, values: Any, *, learning: bool) -> Any:
    """The network in NumPy, with statistics of the batch or those it has kept."""
    for layer in network:
        if isinstance(layer, nn.Linear):
            values = values @ layer.weight.detach().double().numpy().T
            if layer.bias is not None:
                values = values + layer.bias.detach().double().numpy()
        elif isinstance(layer, nn.BatchNorm1d):
            mean, variance = layer.running_mean.double().numpy(), layer.running_var.double().numpy()
            if learning:
                mean, variance = values.mean(axis=0), values.var(axis=0)
            values = (values - mean) / np.sqrt(variance + layer.eps)
            if layer.affine:
                values = values * layer.weight.detach().double().numpy()
                values = values + layer.bias.detach().double().numpy()
        elif isinstance(layer, nn.Tanh):
            values = np.tanh(values)
    return values


def slow_l2(weight: float, *networks: nn.Sequential) -> float:
    linear = [layer for network in networks for layer in network if isinstance(layer, nn.Linear)]
    return weight * sum(float(layer.weight.detach().double().square().sum()) for layer in linear) / 2


def arrays(model: GAR, batch: TripletBatch) -> tuple[Any, ...]:
    """Content, collaborative vectors and presence of the batch's items, and vectors of its users."""
    content = model.content(batch.items).double().numpy()
    own, users = model.items[batch.items.codes].double().numpy(), model.users[batch.users].double().numpy()
    return content, own, batch.items.present.any(dim=1).numpy(), users


def test_the_recommender_ranks_the_true_item_above_the_mixture_of_made_and_negative(sparse: Planted) -> None:
    model = built(sparse, negative_share=0.3, l2=0.01)
    batch = batch_of(sparse, model, batch_size=40)
    content, own, seen, users = arrays(model, batch)
    positives, negatives = batch.positives.numpy(), batch.negatives.numpy()
    assert not seen[positives].all(), "a pair without content belongs into this test"
    made = slow_network(model.generator, content, learning=False)
    fake = np.where(seen[positives][:, None], made[positives], own[negatives[:, 0]])
    rows = np.concatenate([own[positives], fake, own[negatives[:, 0]], own[negatives[:, 1]]])
    items = slow_network(model.item_tower, rows, learning=True)
    towards = slow_network(model.user_tower, users, learning=True)
    s_r, s_g, *s_n = ((towards * part).sum(axis=1) for part in np.split(items, 4))
    expected = np.mean([np.logaddexp(0, -(s_r - 0.7 * s_g - 0.3 * s)) for s in s_n])
    terms = model.turn_losses(RECOMMENDER, batch)
    assert set(terms) == {"rank", "l2"}
    assert float(terms["rank"].detach()) == pytest.approx(expected, rel=1e-4)
    assert float(terms["l2"].detach()) == pytest.approx(slow_l2(0.01, model.user_tower, model.item_tower))


@pytest.mark.parametrize("rebuilds", ["items", "pairs"])
def test_the_generator_is_to_pass_for_the_true_item_and_to_be_near_it(sparse: Planted, rebuilds: str) -> None:
    model = built(sparse, reconstruction=0.2, l2=0.01, rebuilds=rebuilds)
    batch = batch_of(sparse, model, batch_size=40)
    content, own, seen, users = arrays(model, batch)
    positives = batch.positives.numpy()
    kept = seen[positives]
    assert 0 < kept.sum() < len(kept)
    # Without content there is nothing to make a vector of: such items and pairs are left out.
    rows = positives[kept] if rebuilds == "pairs" else np.flatnonzero(seen)
    made = slow_network(model.generator, content[rows], learning=True)
    place = {row: at for at, row in enumerate(rows)}
    of_pairs = np.array([made[place[row]] for row in positives[kept]])
    towards = slow_network(model.user_tower, users[kept], learning=False)
    s_g = (towards * slow_network(model.item_tower, of_pairs, learning=False)).sum(axis=1)
    s_r = (towards * slow_network(model.item_tower, own[positives[kept]], learning=False)).sum(axis=1)
    terms = model.turn_losses(GENERATOR, batch)
    assert set(terms) == {"deceive", "rebuild", "l2"}
    assert float(terms["deceive"].detach()) == pytest.approx(
        0.8 * np.logaddexp(0, s_r - s_g).mean(), rel=1e-4
    )
    distance = np.abs(made - own[rows]).sum(axis=1).mean()
    assert float(terms["rebuild"].detach()) == pytest.approx(0.2 * distance, rel=1e-4)
    assert float(terms["l2"].detach()) == pytest.approx(slow_l2(0.01, model.generator))


def test_who_does_not_learn_in_a_turn_keeps_statistics_and_has_no_dropout(source: Planted) -> None:
    model = built(source, generator_dropout=0.5, tower_dropout=0.5)
    batch = batch_of(source, model)
    networks = {"generator": model.generator, "user": model.user_tower, "item": model.item_tower}
    for turn, still in ((RECOMMENDER, {"generator"}), (GENERATOR, {"user", "item"})):
        before = {name: kept_statistics(network) for name, network in networks.items()}
        model.turn_losses(turn, batch)
        for name, network in networks.items():
            assert network.training == (name not in still)
            assert torch.equal(kept_statistics(network), before[name]) == (name in still)


def kept_statistics(network: nn.Sequential) -> torch.Tensor:
    kept = [m.running_mean for m in network if isinstance(m, nn.BatchNorm1d)]
    return torch.cat([mean.clone() for mean in kept if mean is not None])


def test_made_vectors_teach_the_recommender_nothing_about_the_generator(source: Planted) -> None:
    model = built(source)
    batch = batch_of(source, model)
    torch.stack(list(model.turn_losses(RECOMMENDER, batch).values())).sum().backward()
    assert all(p.grad is None for p in model.generator.parameters())
    assert all(p.grad is not None for p in model.item_tower.parameters())


def test_training_moves_both_players_and_leaves_the_backbone(source: Planted) -> None:
    torch.manual_seed(0)
    model = GAR(GARConfig(dim=6, hidden=10), source.data.inputs)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    assert {name.split(".")[0] for name in before} == {"generator", "user_tower", "item_tower"}
    history = fit(model, source.data, TrainingPlan(batch_size=200, epochs=1), seed=0)
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert {"recommender rank", "generator deceive", "generator rebuild"} <= set(history.epochs[0].losses)
    expected = backbone_of(source.data, "als", 6)
    assert_close(model.users, expected.users)
    assert_close(model.items, expected.items)


def test_warm_items_pass_the_tower_with_their_own_vector_cold_ones_with_what_is_made(source: Planted) -> None:
    model = built(source).eval()
    items = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
    with torch.no_grad():
        vectors, made = model.item_vectors(items), model.generator(model.content(items))
        warm, cold = source.data.warm, [c for c in source.cold if items.present[c].any()]
        assert_close(vectors[warm], model.item_tower(model.items[warm]))
        assert_close(vectors[cold], model.item_tower(made[cold]))
        bare = [c for c in source.cold if not items.present[c].any()]
        assert len(bare) == 1
        assert (vectors[bare] == 0).all()
        assert_close(model.user_vectors(torch.tensor([-1])), model.user_tower(torch.zeros(1, 6)))


def test_rows_of_cold_items_are_never_read(source: Planted) -> None:
    model = built(source)
    batch = batch_of(source, model, batch_size=200, negative_items="all")
    items = item_batch(source.data.features, source.cold)
    assert np.isin(batch.items.codes.numpy(), source.cold).any()
    before = terms_and_vectors(model, batch, items)
    model.items[source.cold] = torch.nan
    assert before.isfinite().all()
    assert torch.equal(terms_and_vectors(model, batch, items), before)


def terms_and_vectors(model: GAR, batch: TripletBatch, items: ItemBatch) -> torch.Tensor:
    with torch.no_grad():
        state = {name: tensor.clone() for name, tensor in model.state_dict().items() if "running" in name}
        terms = torch.stack(list(model.train().losses(batch).values()))
        model.load_state_dict(state, strict=False)
        return torch.cat([terms, model.eval().item_vectors(items).flatten()])


def test_a_batch_of_one_pair_and_one_without_content(source: Planted) -> None:
    model = built(source)
    batch = batch_of(source, model, batch_size=1, negatives=1)
    bare = ItemBatch(
        batch.items.codes,
        tuple(torch.zeros_like(v) for v in batch.items.vectors),
        torch.zeros_like(batch.items.present),
    )
    for items in (batch.items, bare):
        terms = model.losses(TripletBatch(batch.users, items, batch.positives, batch.negatives))
        assert all(term.isfinite() for term in terms.values())
    assert float(terms["generator deceive"].detach()) == float(terms["generator rebuild"].detach()) == 0.0
    torch.stack(list(terms.values())).sum().backward()


def test_whole_users_are_refused(source: Planted) -> None:
    model = built(source)
    plan = TrainingPlan(sampling="users", batch_size=8)
    batch = next(iter(Batches(source.data, plan, 0, False).epoch(1)))
    with pytest.raises(InputError, match="triplets"):
        model.turn_losses(RECOMMENDER, batch)


def test_published_settings_are_those_of_the_paper() -> None:
    assert isinstance(PUBLISHED, GARConfig)
    assert (PUBLISHED.reconstruction, PUBLISHED.negative_share, PUBLISHED.l2) == (0.05, 0.1, 1e-3)
    assert (PUBLISHED.generator_dropout, PUBLISHED.tower_dropout, PUBLISHED.rebuilds) == (0.1, 0.5, "pairs")
