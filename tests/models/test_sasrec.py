import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from prismrec.base.errors import ConfigError, InputError
from prismrec.data.interactions import Pairs
from prismrec.models.base import ModelConfig
from prismrec.models.batches import ItemBatch, ModelInputs, TrainingData, UserBatch
from prismrec.models.plan import TrainingPlan
from prismrec.models.sasrec import SASRecConfig, untouched
from prismrec.testing import ModelConformance
from prismrec.testing.planted import planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit

PLAN = TrainingPlan(sampling="users", batch_size=16, epochs=4, learning_rate=0.01)


class TestConformance(ModelConformance):
    config = SASRecConfig(dim=16)
    plan = PLAN


class TestConformanceAsPublished(ModelConformance):
    config = SASRecConfig(dim=12, loss="bce", block="released", heads=2, blocks=1, max_length=7)
    plan = PLAN


def built(config: ModelConfig, inputs: ModelInputs, seed: int = 3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return config.build(inputs).eval()


def sequences_as_data(sequences: list[list[int]], n_items: int, seed: int = 0) -> TrainingData:
    """Training data of users who took items one after the other, sorted by code as a split has them."""
    base = planted(n_users=max(3, len(sequences)), n_items=max(40, n_items)).data
    rows = sorted((u, item, at) for u, taken in enumerate(sequences) for at, item in enumerate(taken))
    users, items, order = (np.array(column) for column in zip(*rows, strict=True))
    pairs = Pairs(users.astype(np.int32), items.astype(np.int32))
    inputs = ModelInputs(len(sequences), n_items, base.inputs.modalities)
    return TrainingData(pairs, inputs, base.features, np.unique(pairs.items), seed, order.astype(np.float64))


SEQUENCES = [[5, 1, 9, 2], [3], [0, 9, 4, 1, 2, 7, 5, 3], [8, 2]]


@pytest.fixture(params=["paper", "released"])
def model(request):
    """An untrained model that knows its users, with weights that are not near 0."""
    config = SASRecConfig(dim=8, heads=2, max_length=5, block=request.param, init=0.5)
    data = sequences_as_data(SEQUENCES, 11)
    made = built(config, data.inputs)
    made.prepare(data, None)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return made


def by_hand(model, sequence: list[int]) -> np.ndarray:
    """States of one sequence in float64 and in loops, as the paper's equations have them."""
    w = {name: p.detach().numpy().astype(np.float64) for name, p in model.named_parameters()}
    config, dim = model.config, model.config.dim

    def norm(x, name):
        centred = x - x.mean()
        return centred / np.sqrt((centred**2).mean() + 1e-8) * w[f"{name}.weight"] + w[f"{name}.bias"]

    length = len(sequence)
    places = range(config.max_length - length, config.max_length)
    x = [w["items"][c] * np.sqrt(dim) + w["positions"][p] for c, p in zip(sequence, places, strict=True)]
    for number in range(config.blocks):
        b = f"blocks.{number}"
        normed = [norm(row, f"{b}.attention_norm") for row in x]
        asked = x if config.block == "released" else normed
        after = []
        for t in range(length):
            heads = []
            for head in range(config.heads):
                part = slice(head * dim // config.heads, (head + 1) * dim // config.heads)
                query = (w[f"{b}.query.weight"] @ normed[t])[part]
                keys = [(w[f"{b}.key.weight"] @ asked[s])[part] for s in range(t + 1)]
                values = [(w[f"{b}.value.weight"] @ asked[s])[part] for s in range(t + 1)]
                weights = np.exp([query @ key / np.sqrt(len(query)) for key in keys])
                heads.append(sum(a * v for a, v in zip(weights / weights.sum(), values, strict=True)))
            short = normed[t] if config.block == "released" else x[t]
            after.append(short + np.concatenate(heads))
        x = []
        for row in after:
            inner = norm(row, f"{b}.layers_norm")
            hidden = np.maximum(0, w[f"{b}.inner.weight"] @ inner + w[f"{b}.inner.bias"])
            short = inner if config.block == "released" else row
            x.append(short + w[f"{b}.outer.weight"] @ hidden + w[f"{b}.outer.bias"])
    return np.array([norm(row, "norm") for row in x])


def padded(sequence: list[int], length: int) -> torch.Tensor:
    return torch.tensor([[-1] * (length - len(sequence)) + sequence])


@pytest.mark.parametrize("sequence", [[4], [9, 1], [5, 1, 9, 2], [4, 1, 2, 7, 5]])
def test_states_are_those_of_the_equations(model, sequence):
    expected = by_hand(model, sequence)
    for length in range(len(sequence), 6):
        states = model.states(padded(sequence, length))[0, length - len(sequence) :]
        np.testing.assert_allclose(states.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_later_items_do_not_change_earlier_states(model):
    first = torch.tensor([[5, 1, 9, 2, 7], [-1, 3, 4, 1, 0]])
    second = first.clone()
    second[:, 3:] = torch.tensor([[8, 4], [9, 5]])
    before, after = model.states(first), model.states(second)
    assert torch.equal(before[:, :3], after[:, :3])
    assert (before[:, 3:] - after[:, 3:]).abs().amin(dim=1).max() > 0.01


def test_padding_is_as_if_it_were_not_there(model):
    short = model.sequence_vectors(torch.tensor([[9, 1, 4]]))
    together = model.sequence_vectors(torch.tensor([[-1, -1, 9, 1, 4], [5, 1, 9, 2, 7]]))
    assert_close(together[:1], short)
    states = model.states(torch.tensor([[-1, -1, 9, 1, 4]]))
    states[:, 2:].square().sum().backward()
    # The positions of padding have had no part in it.
    assert not model.positions.grad[:2].any()
    assert model.positions.grad[2:].any(dim=1).all()


def test_history_is_closed_up_and_cut_to_the_latest(model):
    # 6 and 10 occur in no user's training.
    vector = model.sequence_vectors(torch.tensor([[2, 7, 5, 3, 9]]))
    gaps = model.sequence_vectors(torch.tensor([[1, 2, -1, 7, 6, 5, 3, 10, 9, -1]]))
    assert_close(gaps, vector)
    assert not model.sequence_vectors(torch.tensor([[-1, 6], [-1, -1]])).any()
    assert model.sequence_vectors(torch.empty(2, 0, dtype=torch.int64)).shape == (2, 8)
    assert model.sequence_vectors(torch.empty(0, 4, dtype=torch.int64)).shape == (0, 8)


def test_users_are_their_latest_training_items_in_order(model):
    vectors = model.user_vectors(torch.tensor([2, 0, -1, 1]))
    for row, sequence in ((0, [1, 2, 7, 5, 3]), (1, [5, 1, 9, 2]), (3, [3])):
        np.testing.assert_allclose(vectors[row].detach(), by_hand(model, sequence)[-1], rtol=1e-4, atol=1e-5)
    assert not vectors[2].any()


def test_at_equal_times_the_lower_code_comes_first():
    data = sequences_as_data([[5, 1, 9, 2]], 11)
    data.order[:] = [7.0, 3.0, 7.0, 3.0]  # of 1, 2, 5, 9
    model = built(SASRecConfig(dim=4), data.inputs)
    model.prepare(data, None)
    assert model.histories.latest(torch.tensor([0]), 9).tolist() == [[2, 9, 1, 5]]


def test_an_anonymous_user_is_folded_in_in_the_order_of_the_items(model):
    warm = torch.tensor([0, 1, 2, 3, 4, 5, 7, 8, 9])
    catalog = model.items.detach()[warm]
    rows = torch.tensor([5, -1, 1, 8, 2])  # items 5, a later one, 1, 9, 2: those of user 0
    assert_close(model.fold_in(catalog[rows], catalog, rows), model.user_vectors(torch.tensor([0]))[0])
    assert model.fold_in(catalog[:1], catalog, torch.tensor([-1])) is None


def users_of(data: TrainingData, batch_size: int = 99) -> UserBatch:
    plan = TrainingPlan(sampling="users", batch_size=batch_size)
    return next(iter(Batches(data, plan, 0, False).epoch(1)))


def test_softmax_is_over_training_items_at_every_position(model):
    batch = users_of(sequences_as_data(SEQUENCES, 11))
    items, warm = model.items.detach().numpy().astype(np.float64), [0, 1, 2, 3, 4, 5, 7, 8, 9]
    each = []
    # The third user's first two of eight items lie outside of the latest six.
    for taken in ([5, 1, 9, 2], [4, 1, 2, 7, 5, 3], [8, 2]):
        for state, target in zip(by_hand(model, taken[:-1]), taken[1:], strict=True):
            each.append(np.log(np.exp(items[warm] @ state).sum()) - items[target] @ state)
    assert len(each) == 9
    assert float(model.losses(batch)["rank"].detach()) == pytest.approx(np.mean(each), rel=1e-4)


def test_yes_and_no_is_the_binary_cross_entropy(model, monkeypatch):
    batch = users_of(sequences_as_data(SEQUENCES, 11))
    model.config = model.config.model_copy(update={"loss": "bce"})
    drawn = []

    def keep(batch, users):
        found = untouched(batch, users)
        drawn.append((users, found[0]))
        return found

    monkeypatch.setattr("prismrec.models.sasrec.untouched", keep)
    value = float(model.losses(batch)["rank"].detach())
    items, warm = model.items.detach().numpy().astype(np.float64), [0, 1, 2, 3, 4, 5, 7, 8, 9]
    ((places, columns),) = drawn
    negatives = [warm[column] for column in columns.tolist()]
    each = []
    for place, user in enumerate(batch.users.tolist()):
        taken = SEQUENCES[user][-6:]
        mine = [n for n, p in zip(negatives, places.tolist(), strict=True) if p == place]
        for state, target, other in zip(by_hand(model, taken[:-1]), taken[1:], mine, strict=True):
            assert other not in SEQUENCES[user]
            yes, no = 1 / (1 + np.exp(-items[target] @ state)), 1 / (1 + np.exp(-items[other] @ state))
            each.append(-np.log(yes) - np.log(1 - no))
    assert value == pytest.approx(np.mean(each), rel=1e-4)


def test_losses_are_a_function_of_parameters_batch_and_the_generator(model):
    batch = users_of(sequences_as_data(SEQUENCES, 11))
    model.config = model.config.model_copy(update={"loss": "bce"})
    model.train()
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(float(model.losses(batch)["rank"].detach()))
    assert values[0] == values[1] != values[2]


def test_a_batch_of_users_of_one_item_has_nothing_to_learn():
    data = sequences_as_data([[5], [3]], 11)
    for loss in ("softmax", "bce"):
        model = built(SASRecConfig(dim=4, loss=loss), data.inputs)
        assert model.prepare(data, None) == {"users of one item": 2.0, "users cut off": 0.0}
        value = model.losses(users_of(data))["rank"]
        value.backward()
        assert float(value.detach()) == 0.0


@given(
    st.lists(st.sets(st.integers(0, 6), min_size=1, max_size=7), min_size=1, max_size=5), st.integers(0, 9)
)
def test_what_is_drawn_is_untouched_and_every_such_item_can_be(touched, seed):
    batch = UserBatch(
        torch.arange(len(touched)),
        ItemBatch(torch.arange(7), (), torch.empty(7, 0, dtype=torch.bool)),
        torch.tensor([row for row, items in enumerate(touched) for _ in items]),
        torch.tensor([item for items in touched for item in items]),
    )
    users = torch.arange(len(touched)).repeat(300)
    torch.manual_seed(seed)
    drawn, there = untouched(batch, users)
    for user, items in enumerate(touched):
        mine = users == user
        assert bool(there[mine].all()) == (len(items) < 7)
        if len(items) < 7:
            # A free item is missed by 300 draws with a probability of less than 1e-19.
            assert set(drawn[mine].tolist()) == set(range(7)) - items


def markov(n_users: int, n_items: int, seed: int) -> tuple[list[list[int]], np.ndarray]:
    """Users who walk along one cycle through all items, from anywhere and for some steps."""
    rng = np.random.default_rng(seed)
    cycle = rng.permutation(n_items)
    following = np.empty(n_items, dtype=np.int64)
    following[cycle] = np.roll(cycle, -1)
    walks = []
    for _ in range(n_users):
        walk = [int(rng.integers(n_items))]
        for _ in range(int(rng.integers(3, 12))):
            walk.append(int(following[walk[-1]]))
        walks.append(walk)
    return walks, following


@pytest.mark.parametrize("config", [SASRecConfig(dim=16), SASRecConfig(dim=16, loss="bce", block="released")])
def test_it_learns_what_follows_what_and_nothing_without_order(config):
    walks, following = markov(200, 30, 0)
    plan = TrainingPlan(sampling="users", batch_size=32, epochs=40, learning_rate=0.01)
    hits = {}
    for told in (True, False):
        data = sequences_as_data(walks, 30)
        if not told:
            data.order[:] = np.random.default_rng(1).permutation(len(data.order))
        model = built(config, data.inputs)
        fit(model, data, plan, seed=0)
        with torch.no_grad():
            scores = model.user_vectors(torch.arange(200)) @ model.items.T
        scores[data.pairs.users, data.pairs.items] = -torch.inf
        nexts = torch.from_numpy(following[[walk[-1] for walk in walks]])
        hits[told] = float((scores.argmax(dim=1) == nexts).float().mean())
    counts = torch.from_numpy(np.bincount(data.pairs.items, minlength=30)).float().repeat(200, 1)
    counts[data.pairs.users, data.pairs.items] = -torch.inf
    popularity = float((counts.argmax(dim=1) == nexts).float().mean())
    assert hits[True] > 0.9
    assert popularity < 0.2
    assert hits[False] < 0.6


def test_without_an_order_it_says_what_to_map():
    source = planted().data
    for order, said in ((None, "neither a timestamp"), (np.full(len(source.pairs), np.nan), "have none")):
        data = TrainingData(source.pairs, source.inputs, source.features, source.warm, 0, order)
        with pytest.raises(InputError, match=said) as caught:
            fit(built(SASRecConfig(dim=4), data.inputs), data, PLAN, seed=0)
        assert "'timestamp' or 'position'" in str(caught.value)


def test_triplets_are_refused():
    source = planted().data
    with pytest.raises(InputError, match="whole users"):
        fit(built(SASRecConfig(dim=4), source.inputs), source, TrainingPlan(), seed=0)


def test_heads_must_share_the_size():
    with pytest.raises(ConfigError, match="heads"):
        SASRecConfig.parse({"dim": 10, "heads": 4})


def test_items_without_interactions_begin_and_stay_at_nothing():
    source = planted().data
    model = built(SASRecConfig(dim=8), source.inputs)
    fit(model, source, PLAN, seed=0)
    cold = np.setdiff1d(np.arange(160), source.warm)
    assert len(cold)
    assert not model.items[cold].any()
    assert model.items[source.warm].any(dim=1).all()


def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path):
    source = planted().data
    calls = iter(range(100))

    def validate(model, stop=False):
        if stop and next(calls) == 3:
            raise KeyboardInterrupt
        return {"ndcg@10": float(model.items.detach().abs().sum())}

    config = SASRecConfig(dim=8, loss="bce")
    whole, first, resumed = (built(config, source.inputs) for _ in range(3))
    fit(whole, source, PLAN, seed=1, validate=validate)
    kept = {"seed": 1, "checkpoint": tmp_path / "checkpoint", "checkpoint_seconds": 0}
    with pytest.raises(KeyboardInterrupt):
        fit(first, source, PLAN, validate=lambda model: validate(model, stop=True), **kept)
    fit(resumed, source, PLAN, validate=validate, **kept)
    assert whole.state().keys() == resumed.state().keys()
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, resumed.state()[name]), name


def test_a_checkpoint_of_another_order_is_refused(tmp_path):
    source = planted().data
    kept = {"seed": 1, "checkpoint": tmp_path / "checkpoint", "checkpoint_seconds": 0}
    fit(built(SASRecConfig(dim=4), source.inputs), source, PLAN, **kept)
    other = TrainingData(
        source.pairs, source.inputs, source.features, source.warm, source.seed, -source.order
    )
    with pytest.raises(InputError):
        fit(built(SASRecConfig(dim=4), source.inputs), other, PLAN, **kept)
