from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.data.interactions import Pairs
from prismrec.models.batches import ItemBatch, Modality, ModelInputs, TripletBatch
from prismrec.models.layers.content import item_batch
from prismrec.models.plan import TrainingPlan
from prismrec.models.slmrec import SLMRec, SLMRecConfig, fine_to_coarse, spread
from prismrec.testing import ModelConformance, Planted, planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit

IMAGE, TEXT, AUDIO, VIDEO = (
    Modality("image", 12),
    Modality("text", 9),
    Modality("audio", 7),
    Modality("video", 5),
)


PLAN = TrainingPlan(batch_size=128, epochs=12, learning_rate=0.02)


class TestConformance(ModelConformance):
    config = SLMRecConfig(dim=16)
    plan = PLAN


class TestHeavierContrast(ModelConformance):
    config = SLMRecConfig(dim=16, fac=1.0, fac_temperature=1.0, mask_repeats=True, l2=1e-3)
    plan = PLAN


class TestUserItemContrastAlone(ModelConformance):
    config = SLMRecConfig(dim=8, layers=1, fac=0, l2=0)
    plan = PLAN


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def built(config: SLMRecConfig, source: Planted) -> SLMRec:
    model = SLMRec(config, source.data.inputs)
    model.prepare(source.data, None)
    return model.eval()


def batches_of(source: Planted, model: SLMRec, **changes: object) -> list[TripletBatch]:
    plan = TrainingPlan.model_validate({"batch_size": 40, "negatives": 2, **changes})
    return list(Batches(source.data, plan, 0, model.wants_catalog).epoch(1))


def everything(source: Planted) -> ItemBatch:
    return item_batch(source.data.features, np.arange(source.data.inputs.n_items))


def warm_mask(source: Planted) -> np.ndarray:
    warm = np.zeros(source.data.inputs.n_items, dtype=bool)
    warm[source.data.warm] = True
    return warm


def without_a_loved_item(source: Planted) -> Planted:
    """Drop the pairs of one item, so that it is cold although its row lies among the others."""
    pairs = source.data.pairs
    kept = pairs.items != source.data.warm[5]
    pairs = Pairs(pairs.users[kept], pairs.items[kept])
    return replace(source, data=replace(source.data, pairs=pairs, warm=np.unique(pairs.items)))


def dense_views(model: SLMRec, source: Planted) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Write the forward pass anew, dense, in double precision: items' views, users and items."""
    data, s = source.data, {name: t.double().numpy() for name, t in model.state().items()}
    n_users, n_items = data.inputs.n_users, data.inputs.n_items
    adjacency = np.zeros((n_users + n_items, n_users + n_items))
    adjacency[data.pairs.users, n_users + data.pairs.items] = 1.0
    adjacency += adjacency.T
    degrees = np.maximum(adjacency.sum(axis=1), 1.0)
    adjacency /= np.sqrt(degrees[:, None] * degrees)
    warm, content = warm_mask(source), everything(source)
    starts = [s["items"] * warm[:, None]]
    for place, vectors in enumerate(content.vectors):
        x = vectors.double().numpy()
        there = content.present[:, place].numpy()
        x[there] /= np.linalg.norm(x[there], axis=1, keepdims=True)
        x[~there] = x[there & warm].mean(axis=0)
        starts.append(x @ s[f"maps.{place}.weight"].T + s[f"maps.{place}.bias"])
    views = []
    for start in starts:
        stage = np.concatenate([s["users"], start])
        stages = [stage]
        for _ in range(model.config.layers):
            stage = adjacency @ stage
            stages.append(stage)
        views.append(np.mean(stages, axis=0))
    h = np.concatenate(views, axis=1)
    users = h[:n_users] @ s["fuse_users.weight"].T + s["fuse_users.bias"]
    items = h[n_users:] @ s["fuse_items.weight"].T + s["fuse_items.bias"]
    return [view[n_users:] for view in views], users, items


CONFIGS = [
    SLMRecConfig(dim=5),
    SLMRecConfig(dim=4, layers=0),
    SLMRecConfig(dim=6, layers=2, mask_repeats=True, temperature=0.6, fac=0.7, fac_temperature=0.4),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("modalities", [(IMAGE,), (IMAGE, TEXT), (IMAGE, AUDIO, TEXT)])
def test_vectors_are_those_of_dense_matrices(config: SLMRecConfig, modalities: Sequence[Modality]) -> None:
    small = without_a_loved_item(planted(modalities, n_users=20, n_items=60, missing=0.3))
    model = built(config, small)
    _, dense_users, dense_items = dense_views(model, small)
    with torch.no_grad():
        users = model.user_vectors(torch.arange(small.data.inputs.n_users)).numpy()
        items = model.item_vectors(everything(small)).numpy()
    np.testing.assert_allclose(users, dense_users, atol=1e-5)
    # Cold items are isolated nodes there, with a row of zeros for an embedding.
    np.testing.assert_allclose(items, dense_items, atol=1e-5)


def test_a_cold_item_is_its_content_alone(source: Planted) -> None:
    model = built(SLMRecConfig(dim=5, layers=3), source)
    cold = torch.from_numpy(source.cold.astype(np.int64))
    items = everything(source)
    code = next(int(c) for c in cold if items.present[c].all())
    parts = [np.zeros(5)]
    for place, vectors in enumerate(items.vectors):
        x = torch.nn.functional.normalize(vectors[code], dim=0)
        parts.append((model.maps[place](x) / 4).detach().numpy())
    by_hand = model.fuse_items(torch.from_numpy(np.concatenate(parts)).float())
    with torch.no_grad():
        for asked in (code, -1):
            one = ItemBatch(
                torch.tensor([asked]),
                tuple(v[code : code + 1] for v in items.vectors),
                items.present[code : code + 1],
            )
            assert_close(model.item_vectors(one)[0], by_hand)


def by_softmax(anchors: np.ndarray, others: np.ndarray, tau: float, codes: np.ndarray | None) -> float:
    total = 0.0
    for row, anchor in enumerate(anchors):
        logits = others @ anchor / tau
        counted = np.full(len(others), True) if codes is None else codes != codes[row]
        counted[row] = True
        total += np.log(np.exp(logits[counted]).sum()) - logits[row]
    return total / len(anchors)


def unit(rows: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


@pytest.mark.parametrize("config", CONFIGS)
def test_terms_are_those_of_the_paper(config: SLMRecConfig, source: Planted) -> None:
    model = built(config, source)
    views, dense_users, dense_items = dense_views(model, source)
    s = {name: t.double().numpy() for name, t in model.state().items()}
    learnt = {name for name, _ in model.named_parameters()} - {"items"}
    squares = sum((s[name] ** 2).sum() for name in learnt) + (s["items"][source.data.warm] ** 2).sum()
    for batch in batches_of(source, model)[:2]:
        codes = batch.items.codes[batch.positives].numpy()
        assert len(np.unique(codes)) < len(codes)
        same = codes if config.mask_repeats else None
        ids, image, text = (view[codes] for view in views)
        # g1 to g5 of the card; g2 and g5 without their offsets, which a softmax cannot see.
        one = ids @ s["agreement.ids.0.weight"].T + s["agreement.ids.0.bias"]
        two = one @ s["agreement.between.weight"].T + s["agreement.between.bias"]
        two = two @ s["agreement.ids.1.weight"].T + s["agreement.ids.1.bias"]
        assert two.shape[1] == config.dim // 2
        agreement = by_softmax(one, image @ s["agreement.contents.0.weight"].T, config.fac_temperature, same)
        agreement += by_softmax(two, text @ s["agreement.contents.1.weight"].T, config.fac_temperature, same)
        users, items = unit(dense_users[batch.users.numpy()]), unit(dense_items[codes])
        expected = {
            "contrast": by_softmax(users, items, config.temperature, same),
            "fac": config.fac * agreement,
            "l2": config.l2 * squares / 2,
        }
        terms = {name: value.item() for name, value in model.losses(batch).items()}
        assert terms.keys() == expected.keys()
        for name, value in expected.items():
            assert terms[name] == pytest.approx(value, rel=1e-4), name


def test_two_modalities_are_compared_alike_in_either_order() -> None:
    assert fine_to_coarse((TEXT, IMAGE)) == [1, 0]
    assert fine_to_coarse((IMAGE, TEXT)) == [0, 1]
    assert fine_to_coarse((AUDIO, TEXT, IMAGE, VIDEO)) == [2, 0, 3, 1]
    assert fine_to_coarse((VIDEO, AUDIO)) == [0, 1]


@pytest.mark.parametrize(
    ("modalities", "sizes"),
    [
        ((TEXT,), [6]),
        ((TEXT, IMAGE), [6, 3]),
        ((IMAGE, TEXT, AUDIO), [6, 6, 3]),
        ((TEXT, AUDIO, VIDEO, IMAGE), [6, 6, 6, 3]),
    ],
)
def test_each_space_is_reached_from_the_one_before(
    modalities: tuple[Modality, ...], sizes: list[int]
) -> None:
    agreement = SLMRec(SLMRecConfig(dim=6), ModelInputs(3, 4, modalities)).agreement
    assert agreement is not None
    views = [torch.randn(4, 6) for _ in range(len(modalities) + 1)]
    pairs = agreement(views)
    assert [ids.shape[1] for ids, _ in pairs] == sizes
    for step, (ids, others) in enumerate(pairs):
        place = fine_to_coarse(modalities)[step]
        assert_close(others, views[1 + place] @ agreement.contents[step].weight.T)
        before = views[0] if step == 0 else pairs[step - 1][0]
        if step == 1 and len(modalities) == 2:
            before = before @ agreement.between.weight.T + agreement.between.bias
        assert_close(ids, before @ agreement.ids[step].weight.T + agreement.ids[step].bias)


def test_spreading_by_hand() -> None:
    # One node on each side, an edge that doubles: stages 3, 6, 12, 24 lie on this side and the other in turn.
    def twice(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    own, others = spread(torch.tensor([[3.0]]), twice, twice, 1, 3)
    assert own.item() == pytest.approx((3 + 12) / 4)
    assert others.item() == pytest.approx((6 + 24) / 4)
    own, others = spread(torch.tensor([[3.0]]), twice, twice, 2, 0)
    assert (own.item(), others.tolist()) == (3.0, [[0.0], [0.0]])


def test_the_l2_term_is_adams_weight_decay(source: Planted) -> None:
    model = built(SLMRecConfig(dim=4, l2=0.3), source)
    term = model.losses(batches_of(source, model)[0])["l2"]
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(term, list(parameters.values()))
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        expected = 0.3 * parameter.detach()
        if name == "items":
            expected = expected * model.tables.warm.unsqueeze(1)
        assert_close(gradient, expected)


def test_a_term_without_weight_is_left_out(source: Planted) -> None:
    model = built(SLMRecConfig(dim=4, fac=0, l2=0), source)
    assert model.losses(batches_of(source, model)[0]).keys() == {"contrast"}
    assert not any(name.startswith("agreement") for name in model.state())


def test_negatives_do_not_matter_and_two_calls_agree(source: Planted) -> None:
    model = built(SLMRecConfig(dim=4), source).train()
    batch = batches_of(source, model)[0]
    codes, positives = batch.items.codes.clone(), batch.positives.clone()
    first = model.losses(batch)
    state = torch.get_rng_state()
    moved = replace(batch, negatives=torch.zeros_like(batch.negatives))
    for other in (model.losses(batch), model.losses(moved)):
        for name, value in first.items():
            assert torch.equal(other[name], value)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(batch.items.codes, codes)
    assert torch.equal(batch.positives, positives)


def test_rows_of_cold_items_are_never_read_and_never_move(source: Planted) -> None:
    plan = TrainingPlan(
        batch_size=64, epochs=2, learning_rate=0.01, negative_items="all", row_updates="dense"
    )
    cold = torch.from_numpy(np.setdiff1d(np.arange(source.data.inputs.n_items), source.data.warm))
    models = []
    for noise in (0.0, 100.0):
        torch.manual_seed(3)
        model = SLMRec(SLMRecConfig(dim=6), source.data.inputs)
        with torch.no_grad():
            model.items[cold] += noise
        before = model.items[cold].clone()
        fit(model, source.data, plan, seed=0)
        assert torch.equal(model.items[cold], before)
        models.append(model.eval())
    with torch.no_grad():
        one, two = (model.item_vectors(everything(source)) for model in models)
    assert torch.equal(one, two)


def test_graph_and_content_stay_as_they_were(source: Planted) -> None:
    model = built(SLMRecConfig(dim=6), source).train()
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    parameters = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for batch in batches_of(source, model)[:3]:
        optimizer.zero_grad()
        torch.stack(list(model.losses(batch).values())).sum().backward()
        optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())
    assert all(not torch.equal(tensor, parameters[name]) for name, tensor in model.named_parameters())


def test_the_pass_is_kept_until_a_parameter_changes(source: Planted) -> None:
    model = built(SLMRecConfig(dim=6), source)
    with torch.no_grad():
        first = model.final()
        assert model.final() is first
        model.losses(batches_of(source, model)[0])
        model.fuse_items.weight.mul_(2.0)
        second = model.final()
        assert second is not first
        assert not torch.equal(second.items, first.items)
        model.train()
        assert model.final() is not second
    model.eval()
    assert model.final().users.requires_grad


def test_users_without_pairs_are_all_alike(source: Planted) -> None:
    model = built(SLMRecConfig(dim=6), source)
    with torch.no_grad():
        model.fuse_users.bias.add_(1.0)
        late = model.user_vectors(torch.tensor([source.data.inputs.n_users - 1, -1]))
    assert torch.equal(late[0], model.fuse_users.bias.detach())
    assert torch.equal(late[0], late[1])


def test_whole_users_are_refused(source: Planted) -> None:
    model = SLMRec(SLMRecConfig(dim=4), source.data.inputs)
    with pytest.raises(InputError, match="trained on triplets"):
        fit(model, source.data, TrainingPlan(sampling="users"), seed=0)
