import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.sequential.lora_noise import share, sigma_for, squared_noise


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 2**31),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 7),
    st.integers(1, 4),
    st.floats(0.01, 10),
)
def test_squared_noise_is_that_of_whole_outputs(
    seed: int, rank: int, wide: int, out: int, positions: int, sigma: float
) -> None:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    a, unit_a, b, unit_b = normal(rank, wide), normal(rank, wide), normal(out, rank), normal(out, rank)
    x = normal(2, positions, wide)
    direct = x @ (a + sigma * unit_a).T @ (b + sigma * unit_b).T - x @ a.T @ b.T
    c2, c3, c4 = squared_noise(b, unit_b, x @ a.T, x @ unit_a.T).tolist()
    parts = c2 * sigma**2 + abs(c3) * sigma**3 + c4 * sigma**4
    wanted = float(direct.square().sum())
    assert c2 * sigma**2 + c3 * sigma**3 + c4 * sigma**4 == pytest.approx(wanted, abs=1e-12 * parts)


@given(st.floats(1e-12, 1e12), st.floats(1e-9, 1e9), st.floats(-1, 1), st.floats(1e-9, 1e9))
def test_sigma_solves_its_equation(target: float, second: float, correlation: float, fourth: float) -> None:
    third = 2 * correlation * (second * fourth) ** 0.5
    sigma = sigma_for(target, second, third, fourth)
    parts = second * sigma**2 + abs(third) * sigma**3 + fourth * sigma**4
    reached = second * sigma**2 + third * sigma**3 + fourth * sigma**4
    assert reached == pytest.approx(target, rel=1e-6, abs=1e-12 * parts)


def test_sigma_by_hand_and_where_there_is_none() -> None:
    assert sigma_for(9.0, 1.0, 0.0, 0.0) == pytest.approx(3)
    assert sigma_for(20.0, 1.0, 0.0, 1.0) == pytest.approx(2)
    assert sigma_for(28.0, 1.0, 1.0, 1.0) == pytest.approx(2)
    assert sigma_for(0.0, 1.0, 0.0, 1.0) == 0
    assert sigma_for(1.0, 0.0, 0.0, 0.0) == 0
    assert sigma_for(float("nan"), 1.0, 0.0, 1.0) == 0
    assert sigma_for(float("inf"), 1.0, 0.0, 1.0) == 0


def test_share_of_nothing() -> None:
    shares = [
        float(share(torch.tensor(part), torch.tensor(whole))) for part, whole in ((0.0, 0.0), (1.0, 4.0))
    ]
    assert shares == [0, 0.25]
