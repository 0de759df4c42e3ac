import copy

import numpy as np
import pytest
import torch

from prismrec.base.errors import InputError
from prismrec.evaluation.corruption import Missing, Noise, Statistics, Swapped, hidden_modality
from prismrec.models.alignrec import AlignRecConfig
from prismrec.models.catalogue import MODELS
from prismrec.models.layers.content import item_batch
from prismrec.models.layers.feature_tables import FeatureTables
from prismrec.models.layers.held_content import holders, replace_content
from prismrec.models.layers.item_graph import ItemGraph
from prismrec.models.layers.modality_graphs import ModalityGraph, ModalityGraphs
from prismrec.models.mtpr import MTPRConfig
from prismrec.models.plan import TrainingPlan
from prismrec.testing import fitted, planted

PLAN = TrainingPlan(epochs=2, batch_size=512, learning_rate=0.01, row_updates="dense")


@pytest.fixture(scope="module")
def source():
    return planted(n_users=30, n_items=80)


@pytest.fixture(scope="module")
def damaged(source):
    features = source.data.features
    noisy = Noise(features, Statistics.of(features, source.data.warm), 1.0, [0, 1], 0)
    return Missing(noisy, hidden_modality(features, 0, 0.3, 0))


class Holder(torch.nn.Module):
    def __init__(self, inputs, trained):
        super().__init__()
        self.tables = FeatureTables(inputs.modalities, inputs.n_items, trained=trained, normalise=True)
        self.summed = ModalityGraphs(inputs.modalities, inputs.n_items, 4, "cosine", [0.5, 0.5])
        self.single = torch.nn.ModuleList(
            ModalityGraph(inputs.n_items, m.dim, 3, "binary") for m in inputs.modalities
        )

    def fit(self, features, warm):
        self.tables.fit(features, warm)
        self.summed.fit(features, warm)
        for place, graph in enumerate(self.single):
            graph.fit(place, features, warm)


@pytest.mark.parametrize("trained", [False, True])
def test_layers_hold_the_new_content(source, damaged, trained):
    features, warm = source.data.features, source.data.warm
    holder = Holder(source.data.inputs, trained)
    holder.fit(features, warm)
    learnt = [torch.randn_like(table) for table in holder.tables.tables]
    means = [mean.clone() for mean in holder.tables.means]
    before = [table.clone() for table in holder.tables.tables]
    with torch.no_grad():
        for table, moved in zip(holder.tables.tables, learnt, strict=True):
            table.add_(moved * holder.tables.warm.unsqueeze(1))
    replace_content(holder, damaged, features, warm)
    fresh = Holder(source.data.inputs, trained)
    fresh.fit(damaged, warm)
    for graph, expected in ((holder.summed, fresh.summed), *zip(holder.single, fresh.single, strict=True)):
        torch.testing.assert_close(graph.edges.values, expected.edges.values)
        assert torch.equal(graph.edges.columns, expected.edges.columns)
    items = item_batch(damaged, np.arange(features.n_items))
    for place, table in enumerate(holder.tables.tables):
        assert torch.equal(holder.tables.means[place], means[place])
        own = torch.nn.functional.normalize(items.vectors[place], dim=1)
        now = torch.where(items.present[:, place : place + 1], own, means[place])
        if trained:
            now = now + learnt[place]
        expected = torch.where(holder.tables.warm.unsqueeze(1), now, 0.0)
        torch.testing.assert_close(table.detach(), expected)
        assert not torch.allclose(table, before[place])
        assert isinstance(table, torch.nn.Parameter) == trained


@pytest.mark.parametrize("trained", [False, True])
def test_the_same_content_changes_nothing(source, trained):
    features, warm = source.data.features, source.data.warm
    holder = Holder(source.data.inputs, trained)
    holder.fit(features, warm)
    before = {name: tensor.clone() for name, tensor in holder.state_dict().items()}
    replace_content(holder, features, features, warm)
    for name, tensor in holder.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_model_sees_it_and_its_copy_alone(source):
    features, warm = source.data.features, source.data.warm
    swapped = Swapped(features, 0.9, 0)
    model = fitted(AlignRecConfig(dim=8), PLAN, source)
    kept = {name: tensor.clone() for name, tensor in model.state().items()}
    users, items = torch.arange(30), item_batch(features, warm)
    with torch.no_grad():
        clean = model.user_vectors(users).clone(), model.item_vectors(items).clone()
        other = copy.deepcopy(model)
        other.see(swapped, features, warm)
        moved = other.user_vectors(users), other.item_vectors(items)
        assert not torch.allclose(clean[0], moved[0])
        assert not torch.allclose(clean[1], moved[1])
        assert torch.equal(model.user_vectors(users), clean[0])
        assert torch.equal(model.item_vectors(items), clean[1])
        other.see(features, swapped, warm)
        torch.testing.assert_close(other.item_vectors(items), clean[1])
    for name, tensor in model.state().items():
        assert torch.equal(tensor, kept[name])


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.name)
def test_every_model_sees_what_it_has_seen(source, kind):
    features, warm = source.data.features, source.data.warm
    if not holders(kind().build(source.data.inputs)):
        pytest.skip("holds no content")
    plan = kind.presets()["default"].training.model_copy(update={"epochs": 1, "batch_size": 256})
    model = fitted(kind(), plan, source)
    users, items = torch.arange(30), item_batch(features, warm)
    with torch.no_grad():
        clean = model.user_vectors(users).clone(), model.item_vectors(items).clone()
        model.see(Swapped(features, 0.5, 0), features, warm)
        model.see(features, Swapped(features, 0.5, 0), warm)
        torch.testing.assert_close(model.user_vectors(users), clean[0], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(model.item_vectors(items), clean[1], rtol=1e-3, atol=1e-4)


def test_who_holds_content(source):
    inputs = source.data.inputs
    assert holders(AlignRecConfig(dim=8).build(inputs))
    assert not holders(MTPRConfig(dim=8).build(inputs))


def test_what_cannot_be_told_is_said(source):
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.graph = ItemGraph(80, 5, 3)

    class Single(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.graph = ModalityGraph(80, 12, 3, "cosine")

    for module in (Odd(), Single()):
        with pytest.raises(InputError, match="Cannot tell"):
            replace_content(module, source.data.features, source.data.features, source.data.warm)
