from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.testing import assert_close

from prismrec.data.interactions import Pairs
from prismrec.features.store import FeatureStore, ItemFeatures
from prismrec.models.augmentation_plan import Augmentation
from prismrec.models.batches import ItemBatch, Modality, ModelInputs, TrainingData, TripletBatch
from prismrec.models.bpr_mf import BPRMFConfig
from prismrec.models.layers.feature_tables import FeatureTables
from prismrec.models.layers.graph import UserItemGraph
from prismrec.models.mamex import MAMEXConfig
from prismrec.models.plan import TrainingPlan
from prismrec.testing import Planted, planted
from prismrec.training.augmentation import Augmenter, deviations, kept_modalities
from prismrec.training.batches import Batches

ALL = Augmentation(modality_dropout=0.4, feature_noise=0.3, edge_dropout=0.3, modality_mixup=0.5)
CONTENT = [
    Augmentation(modality_dropout=0.4),
    Augmentation(feature_noise=0.3),
    Augmentation(modality_mixup=0.5),
    ALL,
]


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted(n_users=30, n_items=240, missing=0.3)


def batch_of(source: Planted, whole: bool = True) -> TripletBatch:
    """The first batch; with all items of the catalogue, cold ones included, or those it needs."""
    batch = next(iter(Batches(source.data, TrainingPlan(batch_size=64), 0, whole).epoch(1)))
    assert isinstance(batch, TripletBatch)
    return batch


def changed(source: Planted, settings: Augmentation, seed: int = 0, epoch: int = 1, place: int = 0):
    return Augmenter(settings, source.data, seed).batch(batch_of(source), epoch, place)


def same(one: ItemBatch, other: ItemBatch) -> bool:
    pairs = zip((*one.vectors, one.present), (*other.vectors, other.present), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


class Layers(nn.Module):
    """A model's shared layers: both kinds of tables, and the graph."""

    def __init__(self, source: Planted) -> None:
        super().__init__()
        modalities, n_items = source.data.inputs.modalities, source.data.inputs.n_items
        self.plain = FeatureTables(modalities, n_items, trained=False, normalise=False)
        self.unit = FeatureTables(modalities, n_items, trained=False, normalise=True)
        self.trained = FeatureTables(modalities, n_items, trained=True, normalise=False)
        self.trained_unit = FeatureTables(modalities, n_items, trained=True, normalise=True)
        self.graph = UserItemGraph(source.data.inputs.n_users, n_items)
        for tables in (self.plain, self.unit, self.trained, self.trained_unit):
            tables.fit(source.data.features, source.data.warm)
        self.graph.fit(source.data.pairs)

    def read(self) -> list[torch.Tensor]:
        found = [*self.plain.tables, *self.unit.tables, *self.trained.tables, *self.trained_unit.tables]
        found.append(self.graph.to_users(torch.eye(self.graph.edges.n_columns)))
        return [tensor.detach().clone() for tensor in found]


# Batches


def test_nothing_is_changed_by_default(source: Planted) -> None:
    batch = batch_of(source)
    assert Augmenter(Augmentation(edge_dropout=0.5), source.data, 0).batch(batch, 1, 0) is batch


@pytest.mark.parametrize("settings", CONTENT)
def test_pairs_and_codes_stay_and_so_does_the_batch_that_is_given(
    source: Planted, settings: Augmentation
) -> None:
    batch, before = batch_of(source), batch_of(source)
    after = Augmenter(settings, source.data, 0).batch(batch, 1, 0)
    assert same(batch.items, before.items)
    assert not same(after.items, before.items)
    assert torch.equal(after.items.codes, before.items.codes)
    for field in fields(batch):
        if field.name != "items":
            assert torch.equal(getattr(after, field.name), getattr(before, field.name))


def test_whole_users_are_changed_too(source: Planted) -> None:
    plan = TrainingPlan(sampling="users", batch_size=8)
    batch = next(iter(Batches(source.data, plan, 0, False).epoch(1)))
    after = Augmenter(ALL, source.data, 0).batch(batch, 1, 0)
    assert type(after) is type(batch)
    assert not same(after.items, batch.items)


@pytest.mark.parametrize("settings", CONTENT)
def test_draws_depend_on_seed_epoch_and_place_alone(source: Planted, settings: Augmentation) -> None:
    first = changed(source, settings).items
    state = torch.get_rng_state()
    augmenter = Augmenter(settings, source.data, 0)
    for epoch, place in ((1, 1), (2, 0), (1, 11), (11, 1)):
        other = augmenter.batch(batch_of(source), epoch, place).items
        assert not same(first, other)
        assert same(other, changed(source, settings, epoch=epoch, place=place).items)
    assert same(first, augmenter.batch(batch_of(source), 1, 0).items)
    assert not same(first, changed(source, settings, seed=1).items)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_missing_stays_missing_and_zero(source: Planted) -> None:
    before, after = batch_of(source).items, changed(source, ALL).items
    assert not (after.present & ~before.present).any()
    for place, vectors in enumerate(after.vectors):
        assert not vectors[~after.present[:, place]].any()
        assert vectors[after.present[:, place]].any(dim=1).all()


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_modalities_are_hidden_but_never_the_last(source: Planted, rate: float) -> None:
    before, augmenter = batch_of(source).items, Augmenter(Augmentation(modality_dropout=rate), source.data, 0)
    both = before.present.all(dim=1)
    single = before.present.sum(dim=1) == 1
    assert single.any()
    assert (~before.present.any(dim=1)).any()
    hidden = torch.zeros(2)
    for place in range(60):
        after = augmenter.batch(batch_of(source), 1, place).items
        assert torch.equal(after.present.any(dim=1), before.present.any(dim=1))
        assert torch.equal(after.present[single], before.present[single])
        for column, own in enumerate(after.vectors):
            there = after.present[:, column]
            assert torch.equal(own[there], before.vectors[column][there])
            assert not own[~there].any()
        hidden += (~after.present[both]).sum(dim=0)
    # Of two, one is hidden with p (1 - p), or both are drawn and it is not the one that stays.
    draws = 60 * int(both.sum())
    expected = rate * (1 - rate) + rate * rate / 2
    assert draws > 5000
    assert_close(hidden / draws, torch.full((2,), expected), rtol=0, atol=0.025)


def test_hidden_modalities_worked_by_hand() -> None:
    present = torch.tensor([[1, 1, 1], [1, 1, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()
    draws = torch.tensor(
        [[0.1, 0.9, 0.5], [0.1, 0.3, 0.2], [0.9, 0.1, 0.2], [0.0, 0.9, 0.9], [0.0, 0.9, 0.5]]
    )
    kept = torch.tensor([[0, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]]).bool()
    assert torch.equal(kept_modalities(present, draws, 0.5), kept)
    nothing = torch.zeros(3, 0)
    assert kept_modalities(nothing.bool(), nothing, 0.5).shape == (3, 0)


def test_noise_is_in_units_of_each_dimension(source: Planted) -> None:
    before, augmenter = batch_of(source).items, Augmenter(Augmentation(feature_noise=0.2), source.data, 0)
    vectors, present = source.data.features.gather(source.data.warm)
    for place, own in enumerate(before.vectors):
        there = before.present[:, place]
        found = []
        for number in range(40):
            after = augmenter.batch(batch_of(source), 1, number).items
            assert torch.equal(after.present, before.present)
            found.append((after.vectors[place] - own)[there].double().numpy())
        noise = np.concatenate(found) / vectors[place][present[:, place]].astype(np.float64).std(axis=0)
        assert np.abs(noise.mean(axis=0)).max() < 0.02
        np.testing.assert_allclose(noise.std(axis=0), 0.2, rtol=0.05)
        assert stats.kstest(noise[:, 0] / 0.2, "norm").pvalue > 1e-3


def test_items_are_mixed_with_training_items_of_the_batch_that_have_the_modality(source: Planted) -> None:
    before = batch_of(source).items
    warm = np.isin(before.codes.numpy(), source.data.warm)
    assert not warm.all()
    alpha, shares, chosen = 0.7, [], set()
    for number in range(4):
        after = changed(source, Augmentation(modality_mixup=alpha), place=number).items
        assert torch.equal(after.present, before.present)
        for place, (own, mixed) in enumerate(zip(before.vectors, after.vectors, strict=True)):
            x, y = own.double().numpy(), mixed.double().numpy()
            there = before.present[:, place].numpy()
            for item in np.flatnonzero(there):
                # Of all items one alone lies on the line through both; how far tells the share.
                ways = x - x[item]
                lengths = np.maximum((ways**2).sum(axis=1), 1e-12)
                steps = ways @ (y[item] - x[item]) / lengths
                gaps = np.abs(x[item] + steps[:, None] * ways - y[item]).max(axis=1)
                gaps[item] = np.inf
                if np.abs(y[item] - x[item]).max() < 1e-5:
                    continue
                partner = int(gaps.argmin())
                assert gaps[partner] < 1e-5
                assert warm[partner]
                assert there[partner]
                assert -1e-5 < steps[partner] <= 0.5 + 1e-5
                shares.append(1 - steps[partner])
                chosen.add(partner)
    # Shares near 1 cannot be told from none, so the test is of those below 0.99.
    shares = np.array(shares)
    shares = shares[shares < 0.99]
    law = stats.beta(alpha, alpha)
    most = law.cdf(0.99) - law.cdf(0.01)
    uniform = (law.cdf(shares) - law.cdf(1 - shares)) / most
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert len(chosen) > 0.7 * warm.sum()


def test_nobody_to_mix_with() -> None:
    vectors = torch.tensor([[1.0, 2.0], [3.0, 5.0], [0.0, 0.0]])
    data = two_items()
    augmenter = Augmenter(Augmentation(modality_mixup=1.0), data, 0)
    rows = torch.zeros(1, dtype=torch.int64)

    def mixed(codes: list[int], present: list[int]) -> torch.Tensor:
        own = vectors * torch.tensor(present).unsqueeze(1)
        items = ItemBatch(torch.tensor(codes), (own,), torch.tensor(present).bool().unsqueeze(1))
        batch = TripletBatch(rows, items, rows, rows.unsqueeze(1))
        after = augmenter.batch(batch, 1, 0).items.vectors[0]
        assert torch.equal(after == own, (after == own).all(dim=1, keepdim=True).expand_as(own))
        return (after != own).any(dim=1)

    # Codes 0 and 1 are training items; 2 and -1 are not, and nobody is mixed with them.
    assert mixed([0, 1, 2], [1, 1, 0]).tolist() == [True, True, False]
    assert mixed([0, 2, -1], [1, 1, 0]).tolist() == [False, True, False]
    assert mixed([2, -1, 1], [1, 1, 0]).tolist() == [False, False, False]
    assert mixed([0, 1, 2], [1, 0, 0]).tolist() == [False, False, False]


def two_items() -> TrainingData:
    """Three items with content, of which two are training items; one dimension does not vary in those."""
    content = np.array([[1.0, 2.0], [3.0, 2.0], [9.0, 7.0]], np.float32)
    ids = ("a", "b", "c")
    features = ItemFeatures([FeatureStore("image", content, ids, ("",) * 3, {})], ids)
    pairs = Pairs(np.array([0, 0], np.int32), np.array([0, 1], np.int32))
    inputs = ModelInputs(1, 3, (Modality("image", 2),))
    return TrainingData(pairs, inputs, features, np.array([0, 1], np.int32), 0)


def test_deviations_are_those_of_training_items() -> None:
    data = two_items()
    assert_close(deviations(data.features, data.warm, normalise=False)[0], torch.tensor([1.0, 0.0]))
    first, second = np.array([1, 2]) / 5**0.5, np.array([3, 2]) / 13**0.5
    unit = torch.from_numpy(np.abs(first - second) / 2).float()
    assert_close(deviations(data.features, data.warm, normalise=True)[0], unit)
    alone = deviations(data.features, np.zeros(0, np.int32), normalise=False)
    assert_close(alone[0], torch.zeros(2))


def test_cold_content_is_never_read() -> None:
    data = two_items()
    kept = Augmenter(Augmentation(feature_noise=1.0, modality_mixup=1.0), data, 0)
    content = data.features.stores[0].vectors.copy()
    content[2] = 1e30
    stores = [FeatureStore("image", content, ("a", "b", "c"), ("",) * 3, {})]
    wild = TrainingData(data.pairs, data.inputs, ItemFeatures(stores, ("a", "b", "c")), data.warm, data.seed)
    found = []
    for augmenter, own in ((kept, data), (Augmenter(kept.settings, wild, 0), wild)):
        tables = FeatureTables(own.inputs.modalities, 3, trained=False, normalise=False)
        tables.fit(own.features, own.warm)
        augmenter.start_epoch(tables, 1)
        found.append(tables.tables[0])
    assert torch.equal(*found)


# Tables and graphs


def test_evaluation_and_what_is_saved_are_untouched(source: Planted) -> None:
    layers, augmenter = Layers(source), Augmenter(ALL, source.data, 0)
    true, saved = layers.read(), {n: t.clone() for n, t in layers.state_dict().items()}
    augmenter.start_epoch(layers, 1)
    disturbed = layers.read()
    assert not any(torch.equal(*pair) for pair in zip(true, disturbed, strict=True))
    layers.eval()
    assert all(torch.equal(*pair) for pair in zip(true, layers.read(), strict=True))
    state = layers.state_dict()
    assert set(state) == set(saved)
    assert all(torch.equal(state[name], saved[name]) for name in saved)
    layers.train()
    assert all(torch.equal(*pair) for pair in zip(disturbed, layers.read(), strict=True))
    augmenter.end_epoch(layers)
    assert all(torch.equal(*pair) for pair in zip(true, layers.read(), strict=True))


def test_epochs_differ_and_a_resumed_run_draws_the_same(source: Planted) -> None:
    layers, augmenter = Layers(source), Augmenter(ALL, source.data, 0)
    augmenter.start_epoch(layers, 1)
    first = layers.read()
    augmenter.end_epoch(layers)
    augmenter.start_epoch(layers, 2)
    second = layers.read()
    resumed = Layers(source)
    state = torch.get_rng_state()
    Augmenter(ALL, source.data, 0).start_epoch(resumed, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert all(torch.equal(*pair) for pair in zip(second, resumed.read(), strict=True))


def test_nothing_lies_over_what_no_setting_changes(source: Planted) -> None:
    layers = Layers(source)
    true = layers.read()
    Augmenter(Augmentation(), source.data, 0).start_epoch(layers, 1)
    assert all(torch.equal(*pair) for pair in zip(true, layers.read(), strict=True))
    Augmenter(Augmentation(modality_dropout=0.5, modality_mixup=1.0), source.data, 0).start_epoch(layers, 1)
    after = layers.read()
    # Trained tables get nothing but noise, and the graph keeps its edges.
    assert [torch.equal(*pair) for pair in zip(true, after, strict=True)] == [False] * 4 + [True] * 5


def test_a_hidden_modality_is_the_mean_in_constant_tables(source: Planted) -> None:
    layers = Layers(source)
    data = source.data
    Augmenter(Augmentation(modality_dropout=1.0), data, 0).start_epoch(layers, 1)
    present = data.features.present[data.warm]
    for tables in (layers.plain, layers.unit):
        hidden = np.stack(
            [
                (table[data.warm] == mean).all(dim=1).numpy()
                for table, mean in zip(tables.tables, tables.means, strict=True)
            ],
            axis=1,
        )
        # All but one are hidden where there are several; a single one stays.
        expected = np.maximum(present.sum(axis=1) - 1, 0)
        assert ((hidden & present).sum(axis=1) == expected).all()
        assert (hidden | present).all()
        for place, table in enumerate(tables.tables):
            true = getattr(tables, f"table_{place}")
            shown = ~hidden[:, place]
            assert torch.equal(table[data.warm[shown]], true[data.warm[shown]])
            assert not table[source.cold].any()
    whole = [layers.plain.tables[0] == layers.plain.means[0], layers.unit.tables[0] == layers.unit.means[0]]
    assert torch.equal(whole[0].all(dim=1), whole[1].all(dim=1))


def test_noise_in_tables(source: Planted) -> None:
    layers, data = Layers(source), source.data
    augmenter = Augmenter(Augmentation(feature_noise=0.2), data, 0)
    found: list[list[np.ndarray]] = [[] for _ in range(4)]
    for epoch in range(1, 61):
        augmenter.start_epoch(layers, epoch)
        for place in range(2):
            for kind, tables in enumerate((layers.plain, layers.trained, layers.trained_unit)):
                gap = (tables.tables[place] - getattr(tables, f"table_{place}")).detach().numpy()
                there = np.isin(np.arange(len(gap)), data.warm) & data.features.present[:, place]
                assert not gap[~there].any()
                if place == 0:
                    found[kind].append(gap[there])
            unit = layers.unit.tables[place][torch.from_numpy(there)]
            assert_close(unit.norm(dim=1), torch.ones(len(unit)))
    own = data.features.gather(data.warm)[0][0][data.features.present[data.warm, 0]].astype(np.float64)
    unit_own = own / np.linalg.norm(own, axis=1, keepdims=True)
    for gaps, content in zip(found[:3], (own, own, unit_own), strict=True):
        noise = np.concatenate(gaps) / content.std(axis=0)
        np.testing.assert_allclose(noise.std(axis=0), 0.2, rtol=0.05)
        assert np.abs(noise.mean(axis=0)).max() < 0.02


def test_mixtures_in_tables_are_of_training_items(source: Planted) -> None:
    layers, data = Layers(source), source.data
    Augmenter(Augmentation(modality_mixup=2.0), data, 0).start_epoch(layers, 1)
    vectors, present = data.features.gather(data.warm)
    for place in range(2):
        x = vectors[place][present[:, place]].astype(np.float64)
        y = layers.plain.tables[place][data.warm[present[:, place]]].double().numpy()
        for item, (own, mixed) in enumerate(zip(x, y, strict=True)):
            ways = np.delete(x, item, axis=0) - own
            steps = ways @ (mixed - own) / (ways**2).sum(axis=1)
            gaps = np.abs(own + steps[:, None] * ways - mixed).max(axis=1)
            assert gaps.min() < 1e-5
            assert -1e-6 <= steps[gaps.argmin()] <= 0.5 + 1e-6
        gone = layers.plain.tables[place][data.warm[~present[:, place]]]
        assert torch.equal(gone, layers.plain.means[place].expand_as(gone))


def test_edges_are_left_out_at_the_rate_and_weighted_anew(source: Planted) -> None:
    layers, data = Layers(source), source.data
    augmenter = Augmenter(Augmentation(edge_dropout=0.3), data, 0)
    kept = []
    for epoch in range(1, 21):
        augmenter.start_epoch(layers, epoch)
        block = layers.graph.to_users(torch.eye(data.inputs.n_items))
        edges = (block > 0).float()
        whole = torch.zeros_like(edges)
        whole[data.pairs.users, data.pairs.items] = 1.0
        assert not (edges > whole).any()
        degrees = edges.sum(dim=1, keepdim=True) * edges.sum(dim=0)
        assert_close(block, edges * degrees.clamp_min(1.0).rsqrt())
        kept.append(float(edges.sum()))
    share = sum(kept) / (20 * len(data.pairs))
    assert abs(share - 0.7) < 4 * (0.21 / (20 * len(data.pairs))) ** 0.5
    assert len(set(kept)) > 1


def test_settings_that_change_nothing_are_named(source: Planted) -> None:
    inputs = source.data.inputs
    augmenter = Augmenter(ALL, source.data, 0)
    assert augmenter.idle(BPRMFConfig().build(inputs)) == list(Augmentation.model_fields)
    assert augmenter.idle(MAMEXConfig().build(inputs)) == ["edge_dropout"]
    single = planted(inputs.modalities[:1], n_users=5, n_items=40).data
    settings = Augmentation(modality_dropout=0.4)
    assert Augmenter(settings, single, 0).idle(MAMEXConfig().build(single.inputs)) == ["modality_dropout"]
    assert Augmenter(Augmentation(), source.data, 0).idle(BPRMFConfig().build(inputs)) == []
