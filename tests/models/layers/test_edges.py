import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from prismrec.data.interactions import Pairs
from prismrec.models.layers import edges as module
from prismrec.models.layers.edges import Edges


def drawn(n_users: int, n_items: int, share: float = 0.4, seed: int = 0) -> tuple[Edges, np.ndarray]:
    """Edges in double precision, and which there are; the pairs come in no order."""
    rng = np.random.default_rng(seed)
    touched = rng.random((n_users, n_items)) < share
    users, items = np.nonzero(touched)
    order = rng.permutation(len(users))
    edges = Edges(n_users, n_items).double()
    edges.fit(Pairs(users[order].astype(np.int32), items[order].astype(np.int32)))
    return edges, touched


def spread(edges: Edges, numbers: torch.Tensor) -> torch.Tensor:
    """Numbers of edges as a matrix of users by items."""
    dense = numbers.new_zeros(edges.n_users, edges.n_items)
    return dense.index_put((edges.users, edges.items), numbers)


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


SIZES = (st.integers(1, 7), st.integers(1, 7), st.floats(0, 1), st.integers(0, 99))


@settings(deadline=None, max_examples=40)
@given(*SIZES)
def test_edges_are_the_pairs_in_order(n_users: int, n_items: int, share: float, seed: int) -> None:
    edges, touched = drawn(n_users, n_items, share, seed)
    users, items = np.nonzero(touched)
    assert len(edges) == len(users)
    np.testing.assert_array_equal(edges.users.numpy(), users)
    np.testing.assert_array_equal(edges.items.numpy(), items)
    np.testing.assert_array_equal(edges.known_users.numpy(), touched.any(axis=1))
    np.testing.assert_array_equal(edges.known_items.numpy(), touched.any(axis=0))


@settings(deadline=None, max_examples=40)
@given(*SIZES)
def test_sums_and_gradients_are_those_of_dense_matrices(
    n_users: int, n_items: int, share: float, seed: int
) -> None:
    # Nodes without edges and graphs without edges occur.
    edges, _ = drawn(n_users, n_items, share, seed)
    users, items, weights = random(n_users, 3), random(n_items, 3, seed=2), random(len(edges), seed=3)
    pairs = (
        (edges.to_users(items, weights), spread(edges, weights) @ items, items),
        (edges.to_items(users, weights), spread(edges, weights).T @ users, users),
    )
    for found, expected, values in pairs:
        assert_close(found, expected)
        factors = random(*found.shape, seed=4).detach()
        got = torch.autograd.grad((found * factors).sum(), (values, weights))
        assert_close(got, torch.autograd.grad((expected * factors).sum(), (values, weights)))


@settings(deadline=None, max_examples=40)
@given(*SIZES)
def test_means_and_gradients_are_those_of_dense_matrices(
    n_users: int, n_items: int, share: float, seed: int
) -> None:
    edges, touched = drawn(n_users, n_items, share, seed)
    users, items = random(n_users, 3), random(n_items, 3, seed=2)
    there = torch.from_numpy(touched).double()
    by_user = there / there.sum(dim=1, keepdim=True).clamp_min(1)
    by_item = there.T / there.T.sum(dim=1, keepdim=True).clamp_min(1)
    pairs = ((edges.mean_to_users(items), by_user, items), (edges.mean_to_items(users), by_item, users))
    for found, matrix, values in pairs:
        assert_close(found, matrix @ values)
        factors = random(*found.shape, seed=4).detach()
        (got,) = torch.autograd.grad((found * factors).sum(), values)
        assert_close(got, matrix.T @ factors)


@settings(deadline=None, max_examples=40)
@given(*SIZES)
def test_dots_and_gradients_are_those_of_dense_matrices(
    n_users: int, n_items: int, share: float, seed: int
) -> None:
    edges, _ = drawn(n_users, n_items, share, seed)
    users, items = random(n_users, 3), random(n_items, 3, seed=2)
    found, expected = edges.dots(users, items), (users @ items.T)[edges.users, edges.items]
    assert_close(found, expected)
    factors = random(len(edges), seed=4).detach()
    got = torch.autograd.grad((found * factors).sum(), (users, items))
    assert_close(got, torch.autograd.grad((expected * factors).sum(), (users, items)))


@settings(deadline=None, max_examples=40)
@given(*SIZES)
def test_softmax_and_gradients_are_those_of_dense_matrices(
    n_users: int, n_items: int, share: float, seed: int
) -> None:
    edges, touched = drawn(n_users, n_items, share, seed)
    logits = random(len(edges))
    absent = torch.from_numpy(np.where(touched, 0.0, -1e30))
    factors = random(len(edges), seed=4).detach()
    for dim, softmax in ((1, edges.softmax_by_user), (0, edges.softmax_by_item)):
        found = softmax(logits)
        expected = (spread(edges, logits) + absent).softmax(dim=dim)[edges.users, edges.items]
        assert_close(found, expected)
        (got,) = torch.autograd.grad((found * factors).sum(), logits)
        (wanted,) = torch.autograd.grad((expected * factors).sum(), logits)
        assert_close(got, wanted)


def test_torch_finds_the_same_gradients_by_differences() -> None:
    edges, _ = drawn(4, 5)
    users, items, weights = random(4, 2), random(5, 2, seed=2), random(len(edges), seed=3)
    assert torch.autograd.gradcheck(edges.to_users, (items, weights))
    assert torch.autograd.gradcheck(edges.to_items, (users, weights))
    assert torch.autograd.gradcheck(edges.dots, (users, items))
    assert torch.autograd.gradcheck(edges.softmax_by_user, (weights,))
    assert torch.autograd.gradcheck(edges.softmax_by_item, (weights,))

    def attention(users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return edges.to_items(users, edges.softmax_by_item(edges.dots(users, items)))

    assert torch.autograd.gradcheck(attention, (users, items))


def test_softmax_by_hand() -> None:
    edges = Edges(2, 3)
    edges.fit(Pairs(np.array([0, 0, 1], np.int32), np.array([0, 2, 2], np.int32)))
    logits = torch.tensor([0.0, float(np.log(3.0)), 5.0])
    assert_close(edges.softmax_by_user(logits), torch.tensor([0.25, 0.75, 1.0]))
    low, high = float(3 / (3 + np.exp(5))), float(np.exp(5) / (3 + np.exp(5)))
    assert_close(edges.softmax_by_item(logits), torch.tensor([1.0, low, high]))


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_softmax_of_large_logits_is_as_precise(shift: float) -> None:
    edges, _ = drawn(5, 6)
    edges, logits = edges.float(), torch.arange(15.0)[: len(drawn(5, 6)[0])]
    for softmax in (edges.softmax_by_user, edges.softmax_by_item):
        far = (logits + shift).requires_grad_()
        assert_close(softmax(far), softmax(logits))
        softmax(far)[0].backward()
        assert far.grad is not None
        assert far.grad.isfinite().all()


def test_blocks_of_edges_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    edges, _ = drawn(6, 7)
    users, items = random(6, 3), random(7, 3, seed=2)
    whole = edges.dots(users, items)
    monkeypatch.setattr(module, "_BLOCK", 4)
    assert len(edges) > 8
    assert torch.equal(edges.dots(users, items), whole)


def test_no_matrix_of_users_by_items_is_made() -> None:
    # As a matrix this would be 3.6 terabytes.
    n = 1_000_000
    edges = Edges(n, n)
    edges.fit(Pairs(np.array([5, n - 1], np.int32), np.array([n - 1, 0], np.int32)))
    values = torch.ones(n, 1, requires_grad=True)
    weights = edges.softmax_by_item(edges.dots(values, values))
    edges.to_users(values, weights).sum().backward()
    assert values.grad is not None
    assert values.grad[:, 0].nonzero()[:, 0].tolist() == [0, n - 1]


def test_both_passes_are_the_same_to_the_bit_again() -> None:
    edges = drawn(40, 50)[0].float()
    results = []
    for _ in range(2):
        users, items = random(40, 8).float(), random(50, 8, seed=2).float()
        found = edges.to_users(items, edges.softmax_by_user(edges.dots(users, items)))
        gradients = torch.autograd.grad(found.square().sum(), (users, items))
        results.append((found, *gradients))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_it_adds_up_in_single_precision_at_least() -> None:
    edges = drawn(5, 6)[0].float()
    half = torch.ones(6, 2, dtype=torch.bfloat16)
    assert edges.mean_to_users(half).dtype == torch.float32
    assert edges.dots(torch.ones(5, 2, dtype=torch.bfloat16), half).dtype == torch.float32


def test_what_does_not_move_gets_no_gradient() -> None:
    edges, _ = drawn(5, 6)
    items = random(6, 2)
    edges.to_users(items, edges.user_shares).sum().backward()
    assert edges.user_shares.grad is None
    assert items.grad is not None


def test_a_second_derivative_is_refused() -> None:
    edges, _ = drawn(5, 6)
    users, items = random(5, 2), random(6, 2, seed=2)
    (gradient,) = torch.autograd.grad(edges.dots(users, items).square().sum(), users, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_it_is_loaded_with_as_many_edges_as_were_saved() -> None:
    edges, _ = drawn(6, 7)
    state = edges.state_dict()
    assert state.keys() == {"users", "items"}
    again, _ = drawn(6, 7, share=0.1, seed=5)
    again.load_state_dict(state)
    users, items = random(6, 2), random(7, 2, seed=2)
    weights = edges.softmax_by_item(edges.dots(users, items))
    assert torch.equal(again.softmax_by_item(again.dots(users, items)), weights)
    assert torch.equal(again.to_users(items, weights), edges.to_users(items, weights))
    assert torch.equal(again.mean_to_items(users), edges.mean_to_items(users))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("users", lambda t: t.flip(0)),
        ("users", lambda t: t + 1),
        ("users", lambda t: t[1:]),
        ("items", lambda t: t - 1),
        ("items", lambda t: t + 7),
        ("items", lambda t: t[:, None]),
    ],
)
def test_what_is_no_graph_is_refused(name: str, change) -> None:
    state = drawn(6, 7, share=0.9)[0].state_dict()
    state[name] = change(state[name])
    with pytest.raises(RuntimeError, match="not the edges of one graph"):
        Edges(6, 7).load_state_dict(state)


def test_a_missing_part_is_named() -> None:
    state = drawn(6, 7)[0].state_dict()
    del state["items"]
    with pytest.raises(RuntimeError, match="items"):
        Edges(6, 7).load_state_dict(state)
