from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.models.batches import Modality, ModelInputs, TripletBatch
from prismrec.models.layers.content import item_batch
from prismrec.models.layers.moe import Experts
from prismrec.models.mamex import MAMEX, MAMEXConfig
from prismrec.models.milk import MILK, MILKConfig, mixed
from prismrec.models.plan import TrainingPlan
from prismrec.testing import ModelConformance, Planted, planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit


class TestConformance(ModelConformance):
    config = MILKConfig(dim=16)


class TestAsPublished(ModelConformance):
    config = MILKConfig.presets()["as_published"].model
    plan = TrainingPlan(batch_size=128, epochs=25, learning_rate=0.02, negative_items="all")


class TestWithoutInvariance(ModelConformance):
    config = MILKConfig(dim=16, penalty=0.0, align=0.0, l2=0.0)
    plan = TrainingPlan(batch_size=128, epochs=25, learning_rate=0.02, negatives=2)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted(missing=0.2)


def built(source: Planted, **settings: object) -> MILK:
    model = MILK(MILKConfig.model_validate({"dim": 5, **settings}), source.data.inputs)
    model.prepare(source.data, None)
    with torch.no_grad():
        model.users.mul_(10.0)
    return model.eval()


def batch_of(source: Planted, model: MILK | MAMEX, negatives: int = 2) -> TripletBatch:
    plan = TrainingPlan(batch_size=32, negatives=negatives)
    batch = next(iter(Batches(source.data, plan, 0, model.wants_catalog).epoch(1)))
    assert isinstance(batch, TripletBatch)
    return batch


class Oracle:
    """The terms for two or three modalities, item by item, in double precision."""

    def __init__(self, model: MILK, batch: TripletBatch) -> None:
        state = {name: value.double().numpy() for name, value in model.state().items()}
        self.users, self.batch = state["users"], batch
        self.z: list[dict[int, np.ndarray]] = []
        for i in range(len(batch.items)):
            found = {}
            for m, vectors in enumerate(batch.items.vectors):
                if batch.items.present[i, m]:
                    x = vectors[i].double().numpy()
                    x = x / np.linalg.norm(x)
                    found[m] = state[f"maps.{m}.weight"] @ x + state[f"maps.{m}.bias"]
            self.z.append(found)

    def vector(self, i: int, weights: np.ndarray) -> np.ndarray:
        z = self.z[i]
        total = sum(weights[m] for m in z)
        return sum((weights[m] / total * z[m] for m in z), np.zeros(self.users.shape[1]))

    def risk(self, weights: np.ndarray) -> float:
        terms = []
        for row, user in enumerate(self.batch.users.tolist()):
            p = self.users[user]
            positive = self.vector(int(self.batch.positives[row]), weights) @ p
            for j in self.batch.negatives[row].tolist():
                terms.append(np.log1p(np.exp(self.vector(j, weights) @ p - positive)))
        return float(np.mean(terms))

    def alignment(self) -> float:
        gaps = []
        for i in sorted(set(self.batch.positives.tolist())):
            there = sorted(self.z[i])
            for a in range(len(there)):
                for b in range(a):
                    gaps.append(((self.z[i][there[a]] - self.z[i][there[b]]) ** 2).mean())
        return float(np.mean(gaps))

    def length(self, weights: np.ndarray) -> float:
        total = []
        for row, user in enumerate(self.batch.users.tolist()):
            items = [(self.vector(j, weights) ** 2).sum() for j in self.batch.negatives[row].tolist()]
            own = (self.vector(int(self.batch.positives[row]), weights) ** 2).sum()
            total.append((self.users[user] ** 2).sum() + own + np.mean(items))
        return float(np.mean(total))


def drawn(m: int, concentration: float, seed: int) -> np.ndarray:
    torch.manual_seed(seed)
    return torch.distributions.Dirichlet(torch.full((m,), concentration)).sample().double().numpy()


@pytest.mark.parametrize("m", [2, 3])
def test_terms_are_those_of_the_paper_item_by_item(m: int) -> None:
    source = planted([Modality(name, 4 + at) for at, name in enumerate("abc"[:m])], missing=0.2)
    model = built(source, centre=False, concentration=2.0, penalty=7.0, align=0.5, l2=0.1)
    batch = batch_of(source, model)
    assert not batch.items.present.all()
    oracle, share = Oracle(model, batch), drawn(m, 2.0, 31)
    # For two modalities: (l1, l2) and (l2, l1).
    mixtures = [
        np.full(m, 1 / m),
        *(np.array([share[(at - shift) % m] for at in range(m)]) for shift in range(m)),
    ]
    risks = [oracle.risk(weights) for weights in mixtures]
    torch.manual_seed(31)
    terms = {name: value.item() for name, value in model.losses(batch).items()}
    assert set(terms) == {"rank", "invariance", "align", "l2"}
    assert terms["rank"] == pytest.approx(sum(risks), rel=1e-4)
    assert terms["invariance"] == pytest.approx(7.0 * np.var(risks, ddof=1), rel=1e-2)
    assert terms["align"] == pytest.approx(0.5 * oracle.alignment(), rel=1e-4)
    assert terms["l2"] == pytest.approx(0.1 * oracle.length(mixtures[0]), rel=1e-4)


def test_every_modality_has_every_share_once() -> None:
    inputs = ModelInputs(3, 4, tuple(Modality(name, 2) for name in "abcd"))
    first, *shifts = MILK(MILKConfig(concentration=1.0), inputs)._environments(torch.zeros(1))
    assert_close(first, torch.full((4,), 0.25))
    table = torch.stack(shifts)
    assert table.shape == (4, 4)
    assert_close(table.sum(dim=1), torch.ones(4))
    for column in table.T:
        assert torch.equal(column.sort().values, table[0].sort().values)
    assert len({tuple(row) for row in table.tolist()}) == 4


def test_a_mixture_is_over_what_an_item_has() -> None:
    parts = torch.tensor([[[1.0], [10.0], [100.0]]]).repeat(4, 1, 1)
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]]).bool()
    found = mixed(parts, present, torch.tensor([0.5, 0.3, 0.2]))
    assert_close(found[:, 0], torch.tensor([23.5, (0.5 + 20) / 0.7, 10.0, 0.0]))


@pytest.mark.parametrize("share", [0.0, 1e-38, 1e-12])
def test_an_item_keeps_its_only_modality_when_the_draw_gives_it_nothing(share: float) -> None:
    parts, present = torch.tensor([[[3.0], [5.0]]]), torch.tensor([[True, False]])
    assert_close(mixed(parts, present, torch.tensor([share, 1.0])), torch.tensor([[3.0]]))


def test_extreme_draws_leave_everything_finite(source: Planted) -> None:
    model = built(source, concentration=1e-4)
    for seed in range(20):
        torch.manual_seed(seed)
        terms = model.losses(batch_of(source, model))
        total = torch.stack(list(terms.values())).sum()
        assert total.isfinite()
        model.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_environments_of_one_modality_coincide() -> None:
    source = planted([Modality("text", 6)])
    model = built(source, l2=0.0)
    batch = batch_of(source, model)
    terms = model.losses(batch)
    # What could never be anything but 0 is not there.
    assert set(terms) == {"rank"}
    risk = Oracle(built(source, centre=False), batch)
    assert len(risk.z) == len(batch.items)
    scores = model.user_vectors(batch.users) @ model.item_vectors(batch.items).T
    positive = scores.gather(1, batch.positives[:, None])
    once = torch.nn.functional.softplus(scores.gather(1, batch.negatives) - positive).mean()
    assert_close(terms["rank"], 2 * once)


def twins(source: Planted) -> tuple[MILK, MAMEX]:
    """MILK, and MAMEX with one expert, equal weights and MILK's parameters."""
    milk = built(source, centre=False, concentration=1e6, penalty=0.0, align=0.0, l2=0.0)
    published = MAMEXConfig.presets()["as_released"].model.model_dump()
    changes = {"dim": 5, "experts": 1, "top_k": 1, "fusion": "mean", "scope": "batch"}
    changes |= {"align": 0.0, "balance": 0.0, "fusion_balance": 0.0, "l2": 0.0}
    mamex = MAMEX(MAMEXConfig.model_validate({**published, **changes}), source.data.inputs)
    mamex.prepare(source.data, None)
    with torch.no_grad():
        mamex.users.copy_(milk.users)
        for experts, affine in zip(mamex.experts, milk.maps, strict=True):
            assert isinstance(experts, Experts)
            experts.maps.load_state_dict(affine.state_dict())
    return milk, mamex.eval()


def test_encoder_is_that_of_mamex_with_one_expert_and_equal_weights(source: Planted) -> None:
    milk, mamex = twins(source)
    items = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
    with torch.no_grad():
        assert_close(milk.item_vectors(items), mamex.item_vectors(items))


def test_with_equal_shares_alone_the_ranking_is_that_of_mamex_three_times(source: Planted) -> None:
    milk, mamex = twins(source)
    batch = batch_of(source, milk)
    ours, theirs = milk.losses(batch), mamex.losses(batch)
    assert set(ours) == set(theirs) == {"rank"}
    assert_close(ours["rank"], 3 * theirs["rank"], rtol=1e-3, atol=0)
    ours["rank"].backward()  # type: ignore[no-untyped-call]
    theirs["rank"].backward()  # type: ignore[no-untyped-call]
    assert milk.users.grad is not None
    assert mamex.users.grad is not None
    assert_close(milk.users.grad, 3 * mamex.users.grad, rtol=1e-2, atol=1e-4)


def test_the_penalty_makes_environments_agree() -> None:
    # One number tells less of an item than twelve.
    source = planted([Modality("image", 12), Modality("text", 1)])
    plan = TrainingPlan(batch_size=128, epochs=15, learning_rate=0.02)
    spread = []
    for penalty in (0.0, 100.0):
        torch.manual_seed(1)
        model = MILK(MILKConfig(dim=8, penalty=penalty, align=0.0, l2=0.0), source.data.inputs)
        fit(model, source.data, plan, seed=0)
        batch = batch_of(source, model)
        items = batch.items
        parts = model.encode(items)
        risks = []
        for weights in ([1.0, 0.0], [0.0, 1.0]):
            scores = model.user_vectors(batch.users) @ mixed(parts, items.present, torch.tensor(weights)).T
            gap = scores.gather(1, batch.negatives) - scores.gather(1, batch.positives[:, None])
            risks.append(torch.nn.functional.softplus(gap).mean().item())
        spread.append(abs(risks[0] - risks[1]))
    assert spread[1] < 0.5 * spread[0]


def test_terms_do_not_depend_on_the_batch_size(source: Planted) -> None:
    model = built(source, penalty=3.0, align=0.5, l2=0.1)
    batch = batch_of(source, model)
    twice = TripletBatch(
        batch.users.repeat(2), batch.items, batch.positives.repeat(2), batch.negatives.repeat(2, 1)
    )
    torch.manual_seed(2)
    once = model.losses(batch)
    torch.manual_seed(2)
    for name, value in model.losses(twice).items():
        assert_close(value, once[name])


def test_users_without_pairs_and_strangers_have_nothing(source: Planted) -> None:
    model = built(source)
    assert not model.user_vectors(torch.tensor([source.data.inputs.n_users - 1, -1])).any()
    assert model.user_vectors(torch.tensor([0])).all()


def test_item_without_content_has_nothing(source: Planted) -> None:
    bare = np.flatnonzero(~source.data.features.present.any(axis=1))
    assert len(bare)
    assert not built(source).item_vectors(item_batch(source.data.features, bare)).any()


def test_centring_can_be_left_out(source: Planted) -> None:
    assert built(source).content.centre.any()
    assert not built(source, centre=False).content.centre.any()


def test_whole_users_are_refused(source: Planted) -> None:
    with pytest.raises(InputError, match="trained on triplets"):
        fit(MILK(MILKConfig(dim=5), source.data.inputs), source.data, TrainingPlan(sampling="users"), seed=0)
