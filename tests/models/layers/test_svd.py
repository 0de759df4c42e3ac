import numpy as np
import pytest
import scipy.sparse

from prismrec.models.layers.svd import svd_factors


@pytest.mark.parametrize("dim", [1, 5, 19, 20, 64])
def test_truncated_svd(dim: int) -> None:
    dense = (np.random.default_rng(0).random((30, 20)) < 0.2).astype(np.float32)
    users, items = svd_factors(scipy.sparse.csr_matrix(dense), dim, seed=0)
    kept = min(dim, 20)
    u, s, vt = np.linalg.svd(dense)
    np.testing.assert_allclose(users @ items.T, (u[:, :kept] * s[:kept]) @ vt[:kept], atol=1e-4)
    np.testing.assert_allclose(items.T @ items, np.eye(kept), atol=1e-5)
    lengths = np.linalg.norm(users, axis=0)
    assert (np.diff(lengths) <= 1e-5).all()
