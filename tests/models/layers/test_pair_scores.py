import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from prismrec.models.layers.pair_scores import pair_scores


@settings(max_examples=30, deadline=None)
@given(users=st.integers(0, 6), items=st.integers(1, 5), pairs=st.integers(1, 4), seed=st.integers(0, 99))
def test_values_and_gradients_are_autograds(users: int, items: int, pairs: int, seed: int) -> None:
    torch.manual_seed(seed)
    places, gradient = torch.randint(items, (users, pairs)), torch.randn(users, pairs)
    given_users, given_items = torch.randn(users, 3), torch.randn(items, 3)
    results = []
    for ours in (True, False):
        left, right = given_users.clone().requires_grad_(), given_items.clone().requires_grad_()
        scores = (
            pair_scores(left, right, places)
            if ours
            else torch.stack([(left * right[places[:, p]]).sum(dim=1) for p in range(pairs)], dim=1)
        )
        scores.backward(gradient)
        results.append((scores, left.grad, right.grad))
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected, atol=1e-5, rtol=1e-4)
