from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.data.interactions import Pairs
from prismrec.models.batches import ItemBatch, Modality, TripletBatch
from prismrec.models.bm3 import BM3, BM3Config, distance
from prismrec.models.layers.content import item_batch
from prismrec.models.layers.dropout import Dropout
from prismrec.models.plan import TrainingPlan
from prismrec.testing import ModelConformance, Planted, cold_auc, fitted, planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit

IMAGE, TEXT, AUDIO = Modality("image", 12), Modality("text", 9), Modality("audio", 7)
PLAN = TrainingPlan(batch_size=128, epochs=25, learning_rate=0.02, row_updates="dense")
BRIEF = PLAN.model_copy(update={"epochs": 4})


class TestConformance(ModelConformance):
    config = BM3Config(dim=16)
    plan = BRIEF


class TestFrozenContentForColdItems(ModelConformance):
    config = BM3Config(dim=16, layers=2, dropout=0.3, trained_features=False, cold_from_content=True)
    plan = BRIEF


class TestWithoutContent(ModelConformance):
    config = BM3Config(dim=8, layers=0, dropout=0, content=0, norm=0)
    plan = BRIEF
    idle = (
        "tables.table_0",
        "tables.table_1",
        "maps.0.weight",
        "maps.0.bias",
        "maps.1.weight",
        "maps.1.bias",
    )


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def built(config: BM3Config, source: Planted) -> BM3:
    model = BM3(config, source.data.inputs)
    model.prepare(source.data, None)
    return model.eval()


def batches_of(source: Planted, model: BM3, **changes: object) -> list[TripletBatch]:
    plan = TrainingPlan.model_validate({"batch_size": 40, "negatives": 2, **changes})
    return list(Batches(source.data, plan, 0, model.wants_catalog).epoch(1))


def everything(source: Planted) -> ItemBatch:
    return item_batch(source.data.features, np.arange(source.data.inputs.n_items))


def warm_mask(source: Planted) -> np.ndarray:
    warm = np.zeros(source.data.inputs.n_items, dtype=bool)
    warm[source.data.warm] = True
    return warm


def cold_codes(source: Planted) -> torch.Tensor:
    return torch.from_numpy(np.flatnonzero(~warm_mask(source)))


def with_pairs(source: Planted, kept: np.ndarray) -> Planted:
    """Leave out training pairs."""
    pairs = source.data.pairs
    pairs = Pairs(pairs.users[kept], pairs.items[kept])
    return replace(source, data=replace(source.data, pairs=pairs, warm=np.unique(pairs.items)))


def dense_pass(model: BM3, source: Planted) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Write h of users and items and the mapped content anew, dense, in double precision."""
    data, s = source.data, {name: t.double().numpy() for name, t in model.state().items()}
    n_users, n_items = data.inputs.n_users, data.inputs.n_items
    adjacency = np.zeros((n_users + n_items, n_users + n_items))
    adjacency[data.pairs.users, n_users + data.pairs.items] = 1.0
    adjacency += adjacency.T
    degrees = np.maximum(adjacency.sum(axis=1), 1.0)
    adjacency /= np.sqrt(degrees[:, None] * degrees)
    warm, content = warm_mask(source), everything(source)
    ids = s["items"] * warm[:, None]
    stages = [np.concatenate([s["users"], ids])]
    for _ in range(model.config.layers):
        stages.append(adjacency @ stages[-1])
    z = np.mean(stages, axis=0)
    mapped = []
    for place, vectors in enumerate(content.vectors):
        x, there = vectors.double().numpy(), content.present[:, place].numpy()
        x[~there] = x[there & warm].mean(axis=0)
        mapped.append(x @ s[f"maps.{place}.weight"].T + s[f"maps.{place}.bias"])
    return z[:n_users], z[n_users:] + ids, mapped


def guess(model: BM3, rows: np.ndarray) -> np.ndarray:
    weight, bias = (t.detach().double().numpy() for t in (model.predictor.weight, model.predictor.bias))
    guessed: np.ndarray = rows @ weight.T + bias
    return guessed


CONFIGS = [
    BM3Config(dim=5),
    BM3Config(dim=4, layers=0, dropout=0.0, content=0.3, cold_from_content=True),
    BM3Config(dim=6, layers=2, dropout=0.3, norm=1.5, trained_features=False, cold_from_content=True),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("modalities", [(IMAGE,), (IMAGE, TEXT), (IMAGE, AUDIO, TEXT)])
def test_vectors_are_those_of_dense_matrices(config: BM3Config, modalities: Sequence[Modality]) -> None:
    small = planted(modalities, n_users=20, n_items=60, missing=0.3)
    small = with_pairs(small, small.data.pairs.items != small.data.warm[5])
    model, warm = built(config, small), warm_mask(small)[:, None]
    h_users, h_items, mapped = dense_pass(model, small)
    with torch.no_grad():
        users = model.user_vectors(torch.arange(small.data.inputs.n_users)).numpy()
        items = model.item_vectors(everything(small)).numpy()
    np.testing.assert_allclose(users, guess(model, h_users), atol=1e-5)
    others = guess(model, np.mean(mapped, axis=0)) if config.cold_from_content else 0.0 * h_items
    np.testing.assert_allclose(items, np.where(warm, guess(model, h_items), others), atol=1e-5)


def masks(rate: float, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Draw what dropout makes of ones, in the order in which the model does."""
    dropout = Dropout(rate)
    return [dropout(torch.ones(shape)).double().numpy() for shape in shapes]


def apart(guesses: np.ndarray, targets: np.ndarray) -> float:
    lengths = np.linalg.norm(guesses, axis=1) * np.linalg.norm(targets, axis=1)
    # A target of which everything was dropped has no direction.
    cosines = (guesses * targets).sum(axis=1) / np.where(lengths > 0, lengths, 1.0)
    return float(1.0 - cosines.mean())


@pytest.mark.parametrize("config", CONFIGS)
def test_terms_are_those_of_the_paper(config: BM3Config, source: Planted) -> None:
    model = built(config, source)
    h_users, h_items, mapped = dense_pass(model, source)
    model.train()
    for seed, batch in enumerate(batches_of(source, model)[:2]):
        codes = batch.items.codes[batch.positives].numpy()
        who, of_user = np.unique(batch.users.numpy(), return_inverse=True)
        what, of_item = np.unique(codes, return_inverse=True)
        assert len(what) < len(codes)
        torch.manual_seed(seed)
        of_users, of_items, *of_contents = masks(
            config.dropout, (len(who), config.dim), *[(len(what), config.dim)] * (1 + len(mapped))
        )
        u, i = h_users[who], h_items[what]
        u_target, i_target = (u * of_users)[of_user], (i * of_items)[of_item]
        content = 0.0
        for rows, mask in zip(mapped, of_contents, strict=True):
            f = rows[what]
            content += apart(guess(model, f)[of_item], i_target)
            content += apart(guess(model, f)[of_item], (f * mask)[of_item])
        lengths = np.sqrt((h_users**2).sum()) + np.sqrt((h_items**2).sum())
        expected = {
            "user_item": apart(guess(model, u)[of_user], i_target),
            "item_user": apart(guess(model, i)[of_item], u_target),
            "content": config.content * content,
            "norm": config.norm * lengths / len(source.data.warm),
        }
        torch.manual_seed(seed)
        terms = {name: value.item() for name, value in model.losses(batch).items()}
        assert terms.keys() == expected.keys()
        for name, value in expected.items():
            assert terms[name] == pytest.approx(value, rel=1e-4), name


def test_distance_by_hand() -> None:
    guesses = torch.tensor([[3.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    targets = torch.tensor([[0.6, 0.8], [-2.0, -2.0], [0.0, 0.0]])
    assert_close(distance(guesses, targets), torch.tensor([0.4, 2.0, 1.0]))


def test_targets_teach_nothing(source: Planted) -> None:
    # Without steps along the graph users and items meet in the loss only.
    model = built(BM3Config(dim=4, layers=0), source)
    terms = model.losses(batches_of(source, model)[0])
    tables = [*model.maps.parameters(), *model.tables.parameters()]
    for name, idle in (
        ("user_item", [model.items, *tables]),
        ("item_user", [model.users, *tables]),
        ("content", [model.users, model.items]),
    ):
        found = torch.autograd.grad(terms[name], idle, retain_graph=True, allow_unused=True)
        assert all(gradient is None for gradient in found), name
    (gradient,) = torch.autograd.grad(terms["user_item"], model.users)
    assert gradient.any()


def test_two_calls_agree_where_the_generator_is_set_back(source: Planted) -> None:
    model = built(BM3Config(dim=4), source).train()
    batch = batches_of(source, model)[0]
    codes, positives = batch.items.codes.clone(), batch.positives.clone()
    state = torch.get_rng_state()
    first, other = model.losses(batch), model.losses(batch)
    torch.set_rng_state(state)
    again = model.losses(replace(batch, negatives=torch.zeros_like(batch.negatives)))
    for name, value in first.items():
        assert torch.equal(again[name], value)
        assert torch.equal(other[name], value) == (name == "norm")
    assert torch.equal(batch.items.codes, codes)
    assert torch.equal(batch.positives, positives)


def test_a_user_or_item_is_perturbed_once_a_batch(source: Planted) -> None:
    model = built(BM3Config(dim=16), source).train()
    seen: list[int] = []
    model.dropout.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    batch = batches_of(source, model)[0]
    model.losses(batch)
    n_items = len(torch.unique(batch.positives))
    assert seen == [len(torch.unique(batch.users)), n_items, n_items, n_items]


def test_nothing_is_perturbed_in_evaluation(source: Planted) -> None:
    model = built(BM3Config(dim=6), source)
    state = torch.get_rng_state()
    with torch.no_grad():
        first = model.item_vectors(everything(source))
        model.losses(batches_of(source, model)[0])
        assert_close(model.item_vectors(everything(source)), first)
        model.train()
        assert_close(model.item_vectors(everything(source)), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_term_without_weight_is_left_out(source: Planted) -> None:
    model = built(BM3Config(dim=4, content=0, norm=0), source)
    assert model.losses(batches_of(source, model)[0]).keys() == {"user_item", "item_user"}


def test_content_moves_only_where_it_may_and_never_enters_a_score(source: Planted) -> None:
    for trained in (True, False):
        model = built(BM3Config(dim=6, trained_features=trained), source).train()
        warm, before = model.tables.warm, [table.detach().clone() for table in model.tables.tables]
        buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for batch in batches_of(source, model)[:3]:
            optimizer.zero_grad()
            torch.stack(list(model.losses(batch).values())).sum().backward()
            optimizer.step()
        for table, old in zip(model.tables.tables, before, strict=True):
            assert bool((table[warm] != old[warm]).any()) == trained
            assert torch.equal(table[~warm], old[~warm])
        assert all(torch.equal(tensor, buffers[name]) for name, tensor in model.named_buffers())
        with torch.no_grad():
            first = model.eval().item_vectors(everything(source))
            for table in model.tables.tables:
                table.mul_(100.0)
            assert torch.equal(model.item_vectors(everything(source)), first)


def test_rows_of_cold_items_are_never_read_and_never_move(source: Planted) -> None:
    plan = PLAN.model_copy(update={"epochs": 2, "negative_items": "all"})
    cold = cold_codes(source)
    models = []
    for noise in (0.0, 100.0):
        torch.manual_seed(3)
        model = BM3(BM3Config(dim=6, cold_from_content=True), source.data.inputs)
        with torch.no_grad():
            model.items[cold] += noise
        before = model.items[cold].clone()
        fit(model, source.data, plan, seed=0)
        assert torch.equal(model.items[cold], before)
        models.append(model.eval())
    with torch.no_grad():
        one, two = (model.item_vectors(everything(source)) for model in models)
    assert torch.equal(one, two)


def test_cold_items_do_not_make_the_penalty_smaller(source: Planted) -> None:
    model = built(BM3Config(dim=4, norm=3.0), source)
    hidden = model.hidden()
    lengths = sum(float(table.detach().square().sum().sqrt()) for table in (hidden.users, hidden.items))
    term = model.losses(batches_of(source, model)[0])["norm"].item()
    assert term == pytest.approx(3.0 * lengths / len(source.data.warm), rel=1e-5)
    assert len(source.data.warm) < source.data.inputs.n_items


def test_it_ranks_pairs_that_were_left_out_of_training(source: Planted) -> None:
    kept = np.random.default_rng(1).random(len(source.data.pairs.users)) < 0.8
    part = with_pairs(source, kept)
    pairs = source.data.pairs
    hidden = Pairs(pairs.users[~kept], pairs.items[~kept])
    trained = fitted(BM3Config(dim=16), PLAN, part)
    assert cold_auc(trained, part.data, hidden) > 0.8


def test_cold_items_are_zero_as_published(source: Planted) -> None:
    model = built(BM3Config(dim=6), source)
    with torch.no_grad():
        model.predictor.bias.add_(1.0)
        assert not model.item_vectors(everything(source))[cold_codes(source)].any()


def test_guesses_from_content_rank_cold_items(source: Planted) -> None:
    model = fitted(BM3Config(dim=16, cold_from_content=True), PLAN, source)
    assert cold_auc(model, source.data, source.test) > 0.8


def test_the_pass_is_kept_until_a_parameter_changes(source: Planted) -> None:
    model = built(BM3Config(dim=6), source)
    with torch.no_grad():
        first = model.final()
        assert model.final() is first
        model.losses(batches_of(source, model)[0])
        model.items.mul_(2.0)
        second = model.final()
        assert second is not first
        assert not torch.equal(second.items, first.items)
        model.train()
        assert model.final() is not second
    model.eval()
    assert model.final().users.requires_grad


def test_users_without_pairs_are_all_alike(source: Planted) -> None:
    model = built(BM3Config(dim=6), source)
    with torch.no_grad():
        late = model.user_vectors(torch.tensor([source.data.inputs.n_users - 1, -1]))
    assert_close(late, model.predictor.bias.detach().expand(2, 6))


def test_whole_users_are_refused(source: Planted) -> None:
    model = BM3(BM3Config(dim=4), source.data.inputs)
    with pytest.raises(InputError, match="trained on triplets"):
        fit(model, source.data, TrainingPlan(sampling="users"), seed=0)
