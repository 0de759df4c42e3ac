import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from prismrec.models.layers.cross_modal import CrossModal

N = 400


def drawn(noise: float = 0.0, missing: float = 0.3) -> tuple[list[Tensor], Tensor]:
    """Return three modalities of one hidden thing, as unit vectors, and which of them there are."""
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(N, 4, generator=generator)
    whole = []
    for dim in (6, 9, 5):
        seen = hidden @ torch.randn(4, dim, generator=generator)
        seen = seen + noise * torch.randn(N, dim, generator=generator)
        whole.append(functional.normalize(seen, dim=1))
    present = torch.rand(N, 3, generator=generator) >= missing
    return whole, present


def fitted(whole: list[Tensor], present: Tensor) -> tuple[CrossModal, list[float], list[Tensor]]:
    torn = [torch.where(present[:, m : m + 1], vectors, 0.0) for m, vectors in enumerate(whole)]

    def contents(codes: npt.NDArray[np.int32]) -> tuple[list[Tensor], Tensor]:
        rows = torch.from_numpy(codes.astype(np.int64))
        return [vectors[rows] for vectors in torn], present[rows]

    crossing = CrossModal([vectors.shape[1] for vectors in whole])
    return crossing, crossing.fit(contents, np.arange(N, dtype=np.int32)), torn


def test_gaps_are_filled_with_what_was_there() -> None:
    whole, present = drawn()
    crossing, cosines, torn = fitted(whole, present)
    filled, there = crossing(torn, present)
    gaps = ~present & present.any(dim=1, keepdim=True)
    assert min(cosines) > 0.9
    for place, vectors in enumerate(filled):
        assert torch.equal(vectors[present[:, place]], whole[place][present[:, place]])
        made = gaps[:, place] & there[:, place]
        assert made.sum() > 40
        assert functional.cosine_similarity(vectors[made], whole[place][made]).mean() > 0.9
        assert_close(vectors[made].norm(dim=1), torch.ones(int(made.sum())))


def test_an_item_without_content_stays_without() -> None:
    whole, present = drawn()
    crossing, _, torn = fitted(whole, present)
    bare = ~present.any(dim=1)
    assert bare.any()
    filled, there = crossing(torn, present)
    assert not there[bare].any()
    assert not any(vectors[bare].any() for vectors in filled)


def test_pure_noise_is_not_made_into_content() -> None:
    generator = torch.Generator().manual_seed(1)
    whole = [functional.normalize(torch.randn(N, dim, generator=generator), dim=1) for dim in (6, 9)]
    present = torch.rand(N, 2, generator=generator) >= 0.3
    crossing, cosines, torn = fitted(whole, present)
    assert cosines == [0.0, 0.0]
    filled, there = crossing(torn, present)
    assert torch.equal(there, present)
    assert all(torch.equal(a, b) for a, b in zip(filled, torn, strict=True))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_maps_are_ridge_regressions(place: int) -> None:
    whole, present = drawn(noise=0.5)
    crossing, _, torn = fitted(whole, present)
    other = (place + 1) % 3
    both = (present[:, place] & present[:, other]).numpy()
    x, y = torn[place].double().numpy()[both], torn[other].double().numpy()[both]
    # The penalty is measured on the rows that the choice was fitted on.
    kept = both.copy()
    kept[::5] = False
    z = torn[place].double().numpy()[kept]
    solutions = []
    for penalty in (1e-3, 1e-2, 1e-1, 1.0, 10.0):
        for gram in (x.T @ x, z.T @ z):
            ridge = penalty * np.diag(gram).mean()
            solutions.append(np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y))
    found = crossing.get_buffer(f"map_{place}_{other}").double().numpy()
    assert min(np.abs(found - solution).max() for solution in solutions) < 1e-5


def test_modalities_that_never_meet_say_nothing() -> None:
    whole, present = drawn()
    present[:, 0] = torch.arange(N) % 2 == 0
    present[:, 1:] = (torch.arange(N) % 2 == 1).unsqueeze(1)
    crossing, cosines, torn = fitted(whole, present)
    assert cosines[0] == 0.0
    filled, there = crossing(torn, present)
    assert torch.equal(there[:, 0], present[:, 0])
    assert not filled[0][~present[:, 0]].any()
