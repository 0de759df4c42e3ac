"""Every strategy's steps against what is worked out by hand, and against another implementation."""

import itertools
from dataclasses import replace
from typing import ClassVar

import pytest
import pytorch_optimizer
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from prismrec.models import strategies as settings
from prismrec.models.base import GradientModel, ModelConfig
from prismrec.models.batches import Batch, ItemBatch, ModelInputs, TripletBatch
from prismrec.training.strategies.make import make_strategy
from prismrec.training.strategies.passes import Passes

H = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, -0.5], [0.0, -0.5, 1.0]], dtype=torch.float64)
TARGET = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
START = torch.tensor([0.4, 0.3, -1.2], dtype=torch.float64)
BIAS = torch.tensor([0.7], dtype=torch.float64)


class QuadraticConfig(ModelConfig):
    """No settings."""

    name: ClassVar[str] = "quadratic"
    summary: ClassVar[str] = "For tests."

    def build(self, inputs: ModelInputs) -> "Quadratic":
        del inputs
        return Quadratic()


class Quadratic(GradientModel):
    """``L = (w - t)' H (w - t) / 2 + b^4``; `noise` adds a product of w with random numbers."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__(ModelInputs(1, 1, ()))
        self.config = QuadraticConfig()
        self.weights = nn.Parameter(START.clone())
        self.bias = nn.Parameter(BIAS.clone())
        self.noise, self.seen = noise, []

    def user_vectors(self, users: Tensor) -> Tensor:
        return torch.zeros(len(users), 1)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        return torch.zeros(len(items), 1)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        away = self.weights - TARGET
        terms = {"quadratic": 0.5 * away @ H @ away, "bias": self.bias.pow(4).sum()}
        if self.noise:
            drawn = torch.rand(3, dtype=torch.float64)
            self.seen.append(drawn)
            terms["noise"] = self.noise * drawn @ self.weights
        return terms


def gradient(w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient by hand."""
    return H @ (w - TARGET), 4 * b**3


def nothing() -> TripletBatch:
    """Return a batch of one pair of nobody with nothing."""
    items = ItemBatch(torch.zeros(1, dtype=torch.int64), (), torch.zeros(1, 0, dtype=torch.bool))
    one = torch.zeros(1, dtype=torch.int64)
    return TripletBatch(one, items, one, one.unsqueeze(1))


def passes(model: GradientModel, *, rate: float = 0.1, number: int = 0, batch: Batch | None = None) -> Passes:
    """Return the passes of a step of plain SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    return Passes(model, batch or nothing(), None, optimizers=[optimizer], rate=rate, number=number)


RATE = 0.1
RHO = 0.3


def unit(*parts: Tensor) -> tuple[Tensor, ...]:
    size = torch.cat(parts).norm()
    return tuple(part / size for part in parts)


def after(chosen: settings.Strategy, steps: int = 1) -> tuple[Tensor, Tensor]:
    """Return weights and bias after some steps of SGD."""
    model, strategy = Quadratic(), make_strategy(chosen)
    for number in range(steps):
        strategy.step(passes(model, rate=RATE, number=number))
    return model.weights.detach(), model.bias.detach()


def down(w: Tensor, b: Tensor, gw: Tensor, gb: Tensor) -> tuple[Tensor, Tensor]:
    return w - RATE * gw, b - RATE * gb


def at_the_top(w: Tensor, b: Tensor, rho: float = RHO) -> tuple[Tensor, Tensor]:
    """Return the gradient where SAM takes it."""
    uw, ub = unit(*gradient(w, b))
    return gradient(w + rho * uw, b + rho * ub)


def test_plain() -> None:
    assert_close(after(settings.Plain()), down(START, BIAS, *gradient(START, BIAS)))


def test_sam() -> None:
    expected = down(START, BIAS, *at_the_top(START, BIAS))
    assert_close(after(settings.SAM(rho=RHO, radius="global")), expected)


def test_asam() -> None:
    gw, gb = gradient(START, BIAS)
    tw, tb = START.abs() + 0.01, BIAS.abs() + 0.01
    size = torch.cat([tw * gw, tb * gb]).norm()
    top = gradient(START + RHO * tw**2 * gw / size, BIAS + RHO * tb**2 * gb / size)
    assert_close(after(settings.ASAM(rho=RHO)), down(START, BIAS, *top))


def test_gsam() -> None:
    g, top = torch.cat(gradient(START, BIAS)), torch.cat(at_the_top(START, BIAS))
    across = g - (g @ top) / (top @ top) * top
    assert abs(float(across @ top)) < 1e-12
    expected = torch.cat([START, BIAS]) - RATE * (top - 0.4 * across)
    assert_close(torch.cat(after(settings.GSAM(rho=RHO, radius="global"))), expected)


@pytest.mark.parametrize("decoupled", [True, False])
def test_wsam(decoupled: bool) -> None:
    g, top = torch.cat(gradient(START, BIAS)), torch.cat(at_the_top(START, BIAS))
    expected = torch.cat([START, BIAS]) - RATE * (g + 0.75 / 0.25 * (top - g))
    chosen = settings.WSAM(rho=RHO, radius="global", gamma=0.75, decoupled=decoupled)
    assert_close(torch.cat(after(chosen)), expected)


def test_wsam_decoupled_leaves_the_optimisers_moments_alone() -> None:
    def moments(decoupled: bool) -> Tensor:
        model = Quadratic()
        step = passes(model, rate=RATE)
        adam = torch.optim.Adam(model.parameters(), lr=RATE)
        step._optimizers = [adam]
        make_strategy(settings.WSAM(rho=RHO, decoupled=decoupled)).step(step)
        return adam.state[model.weights]["exp_avg"]

    assert_close(moments(True), 0.1 * gradient(START, BIAS)[0])
    assert not torch.allclose(moments(False), 0.1 * gradient(START, BIAS)[0])


def test_friendly_sam() -> None:
    x = torch.cat([START, BIAS])
    mean = torch.zeros(4, dtype=torch.float64)
    for number in range(3):
        g = torch.cat(gradient(x[:3], x[3:]))
        along = g - 0.8 * mean
        mean = g.clone() if number == 0 else 0.6 * mean + 0.4 * g
        up = x + RHO * along / along.norm()
        x = x - RATE * torch.cat(gradient(up[:3], up[3:]))
    found = after(settings.FriendlySAM(rho=RHO, radius="global", sigma=0.8, decay=0.6), 3)
    assert_close(torch.cat(found), x)


def test_looksam() -> None:
    x, across = torch.cat([START, BIAS]), torch.zeros(4, dtype=torch.float64)
    for number in range(5):
        g = torch.cat(gradient(x[:3], x[3:]))
        if number % 3 == 0:
            used = torch.cat(at_the_top(x[:3], x[3:]))
            across = used - (used @ g) / (g @ g) * g
        else:
            used = g + 0.7 * g.norm() / across.norm() * across
        x = x - RATE * used
    assert_close(torch.cat(after(settings.LookSAM(rho=RHO, radius="global", every=3), 5)), x)


@pytest.mark.parametrize(
    ("chosen", "plain", "perturbed"),
    [
        (settings.BSAM(rho=RHO, radius="global"), 0.0, 1.0),
        (settings.BSAM(rho=RHO, radius="global", reading="R1-sum"), 1.0, 1.0),
        (settings.BSAMPlus(rho=RHO, radius="global"), 0.5, 0.5),
        (settings.BSAMPlus(rho=RHO, radius="global", mix=0.2), 0.2, 0.8),
    ],
)
def test_bsam(chosen: settings.BSAM, plain: float, perturbed: float) -> None:
    g, top = torch.cat(gradient(START, BIAS)), torch.cat(at_the_top(START, BIAS))
    expected = torch.cat([START, BIAS]) - RATE * (plain * g + perturbed * top)
    assert_close(torch.cat(after(chosen)), expected)


def test_bsam_plus_is_to_first_order_a_smaller_bsam() -> None:
    """The control of the method's card: rho' = (1 - a) rho, here on a form whose gradient is linear."""
    half = after(settings.BSAMPlus(rho=1e-4, radius="global"))
    smaller = after(settings.BSAM(rho=0.5e-4, radius="global"))
    assert_close(torch.cat(half), torch.cat(smaller), rtol=0, atol=1e-9)


def test_a_random_direction_is_as_long_and_not_the_gradient() -> None:
    chosen = settings.BSAM(rho=RHO, radius="global", direction="random")
    found = torch.cat(after(chosen))
    assert not torch.allclose(found, torch.cat(after(settings.BSAM(rho=RHO, radius="global"))))
    assert_close(found, torch.cat(after(chosen)))


def test_mirror_gradient_every_third_step() -> None:
    w, b = START, BIAS
    for number in range(6):
        low = down(w, b, *gradient(w, b))
        if number % 3 == 2:
            gw, gb = gradient(*low)
            low = (low[0] + 0.2 * RATE * gw, low[1] + 0.2 * RATE * gb)
        w, b = low
    assert_close(after(settings.MirrorGradient(), 6), (w, b))
    # Without moments the released way is the same.
    assert_close(after(settings.MirrorGradient(as_released=True), 6), (w, b))


def loss(model: Quadratic) -> float:
    return sum(float(term.detach()) for term in model.losses(None).values())


@pytest.mark.parametrize(("as_released", "climbs"), [(False, True), (True, False)])
def test_under_adam_the_mirror_step_climbs_only_as_in_the_paper(as_released: bool, climbs: bool) -> None:
    model = Quadratic()
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    strategy = make_strategy(settings.MirrorGradient(as_released=as_released))
    rises = []
    for number in range(30):
        step = passes(model, rate=0.01, number=number)
        step._optimizers = [adam]
        losses: list[float] = []
        taken = step.take
        # The second pass of a mirrored step begins where the step down has led.
        step.take = lambda *a, taken=taken, losses=losses, **k: (losses.append(loss(model)), taken(*a, **k))[
            1
        ]
        strategy.step(step)
        if len(losses) == 2:
            rises.append(loss(model) > losses[1])
    assert len(rises) == 10
    assert all(rises) if climbs else not any(rises)


@pytest.mark.parametrize(
    ("chosen", "other"),
    [
        (
            settings.SAM(rho=RHO, radius="global"),
            lambda m, p: pytorch_optimizer.SAM(p, torch.optim.SGD, rho=RHO, lr=RATE),
        ),
        (
            settings.WSAM(rho=RHO, radius="global", gamma=0.6),
            lambda m, p: pytorch_optimizer.WSAM(m, p, torch.optim.SGD, rho=RHO, gamma=0.6, lr=RATE),
        ),
        (
            settings.WSAM(rho=RHO, radius="global", gamma=0.6, decoupled=False),
            lambda m, p: pytorch_optimizer.WSAM(
                m, p, torch.optim.SGD, rho=RHO, gamma=0.6, decouple=False, lr=RATE
            ),
        ),
        (
            settings.FriendlySAM(rho=RHO, radius="global"),
            lambda m, p: pytorch_optimizer.FriendlySAM(
                p, torch.optim.SGD, rho=RHO, sigma=1.0, lmbda=0.9, lr=RATE
            ),
        ),
        (
            settings.LookSAM(rho=RHO, radius="global", every=3),
            lambda m, p: pytorch_optimizer.LookSAM(p, torch.optim.SGD, rho=RHO, k=3, alpha=0.7, lr=RATE),
        ),
    ],
    ids=["sam", "wsam", "wsam-coupled", "friendly-sam", "looksam"],
)
def test_equal_to_pytorch_optimizer(chosen, other) -> None:
    model, theirs, strategy = Quadratic(), Quadratic(), make_strategy(chosen)
    # LookSAM goes by parameter there, so the comparison is made with one.
    for one in (model, theirs):
        one.bias.requires_grad_(not isinstance(chosen, settings.LookSAM))
    optimizer = other(theirs, [p for p in theirs.parameters() if p.requires_grad])
    for number in range(7):
        strategy.step(passes(model, rate=RATE, number=number))

        def closure() -> Tensor:
            optimizer.zero_grad()
            total = sum(theirs.losses(None).values())
            total.backward()
            return total

        closure()
        optimizer.step(closure)
        assert_close(model.weights, theirs.weights, rtol=1e-6, atol=1e-8)
        assert_close(model.bias, theirs.bias, rtol=1e-6, atol=1e-8)
    assert not torch.equal(model.weights, START)


ALL = [
    settings.Plain(),
    settings.SAM(),
    settings.ASAM(),
    settings.GSAM(),
    settings.WSAM(),
    settings.FriendlySAM(),
    settings.LookSAM(every=2),
    settings.BSAM(),
    settings.BSAM(reading="R1-sum"),
    settings.BSAM(direction="random"),
    settings.BSAMPlus(),
    settings.MirrorGradient(every=2),
    settings.MirrorGradient(every=2, as_released=True),
]
IDS = [f"{s.name}-{n}" for n, s in enumerate(ALL)]


@pytest.mark.parametrize("chosen", ALL, ids=IDS)
def test_both_passes_see_the_same_noise(chosen: settings.Strategy) -> None:
    torch.manual_seed(3)
    model, strategy = Quadratic(noise=0.5), make_strategy(chosen)
    ends = []
    for number in range(4):
        model.seen.clear()
        strategy.step(passes(model, number=number))
        assert all(torch.equal(drawn, model.seen[0]) for drawn in model.seen)
        ends.append(model.seen[0])
    # Steps see different noise, and the second pass uses up none.
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(ends))
    torch.manual_seed(3)
    assert all(torch.equal(drawn, torch.rand(3, dtype=torch.float64)) for drawn in ends)


@pytest.mark.parametrize("chosen", [s for s in ALL if hasattr(s, "fresh_noise")])
def test_fresh_noise_is_fresh(chosen: settings.Strategy) -> None:
    model = Quadratic(noise=0.5)
    strategy = make_strategy(chosen.model_copy(update={"fresh_noise": True}))
    for number in range(2):
        model.seen.clear()
        strategy.step(passes(model, number=number))
        if len(model.seen) == 2:
            assert not torch.equal(*model.seen)


@pytest.mark.parametrize("radius", ["global", "rows", "relative"])
def test_weights_are_put_back_bit_for_bit(radius: settings.Radius) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        model = Quadratic()
        with torch.no_grad():
            model.weights.copy_(torch.randn(3, generator=generator, dtype=torch.float64) * 10)
        before = model.weights.detach().clone()
        # A rate of 0: whatever is left of the perturbation shows.
        make_strategy(settings.SAM(rho=7.0, radius=radius)).step(passes(model, rate=0.0))
        assert torch.equal(model.weights, before)


def test_weights_are_put_back_when_the_second_pass_fails() -> None:
    model, step = Quadratic(), None
    step = passes(model)
    taken = step.take

    def fails(*args, **kwargs):
        if step._random is not None:
            raise RuntimeError("no")
        return taken(*args, **kwargs)

    step.take = fails
    with pytest.raises(RuntimeError, match="no"):
        make_strategy(settings.SAM(rho=1.0)).step(step)
    assert torch.equal(model.weights, START)


def pair_batch(pairs: int) -> TripletBatch:
    one = nothing()
    return replace(
        one,
        users=one.users.repeat(pairs),
        positives=one.positives.repeat(pairs),
        negatives=one.negatives.repeat(pairs, 1),
    )


def test_halves_see_their_own_noise_and_no_later_step_sees_it_again() -> None:
    """The plain and the last pass of BSAM+ are of one half, the climbing pass of the other."""
    torch.manual_seed(3)
    model, strategy = Quadratic(noise=0.5), make_strategy(settings.BSAMPlus(reading="R3"))
    drawn: list[Tensor] = []
    for number in range(3):
        model.seen.clear()
        strategy.step(passes(model, number=number, batch=pair_batch(2)))
        plain, up, last = model.seen
        assert torch.equal(plain, last)
        assert not any(torch.equal(new, old) for new in (plain, up) for old in drawn)
        assert not torch.equal(plain, up)
        drawn += [plain, up]


@pytest.mark.parametrize("chosen", [settings.BSAM(reading="R3"), settings.BSAMPlus(reading="R3")])
def test_a_pair_that_is_left_alone_is_both_halves(chosen: settings.BSAM) -> None:
    """The last batch of an epoch may hold a single pair, whatever the batch size."""
    whole = chosen.model_copy(update={"reading": "R1"})
    assert_close(after(chosen), after(whole))
