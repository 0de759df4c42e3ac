"""Nearest neighbours against comparing all items with all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.base.errors import InputError
from prismrec.features import neighbours
from prismrec.features.neighbours import Likeness, nearest_neighbours
from prismrec.features.store import FeatureStore


def store_of(vectors, names):
    return FeatureStore("image", vectors, tuple(names), ("",) * len(names), {})


def by_hand(vectors, present, k, kind):
    """Whole numbers: their products are exact; the cosine's order is that of exact fractions."""
    n = len(present)
    found = np.full((n, k), -1)
    weights = np.zeros((n, k))
    usable = present & (vectors.any(axis=1) | (kind == "dot"))
    for i in np.flatnonzero(usable):
        others = [j for j in np.flatnonzero(usable) if j != i]
        length = (lambda x: np.linalg.norm(vectors[x])) if kind == "cosine" else (lambda x: 1.0)
        like = {j: float(vectors[i] @ vectors[j]) / (length(i) * length(j)) for j in others}
        best = sorted(others, key=lambda j: (-round(like[j], 6), j))[:k]
        found[i, : len(best)] = best
        weights[i, : len(best)] = [like[j] for j in best]
    return found, weights


@pytest.mark.parametrize("kind", list(Likeness))
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 6), st.integers(1, 8))
@settings(max_examples=50)
def test_agrees_with_comparing_all(kind, seed, n, dim, k):
    random = np.random.default_rng(seed)
    vectors = random.integers(-2, 3, (n, dim)).astype(np.float32)
    if kind == "cosine":  # a power of two as a scale leaves the directions alone, to the last bit
        vectors = vectors * (2.0 ** random.integers(-2, 3, (n, 1))).astype(np.float32)
    present = random.random(n) < 0.8
    present[0] = True
    names = [f"i{i}" for i in range(n)]
    order = random.permutation(np.flatnonzero(present))
    store = store_of(
        vectors[order].astype(random.choice([np.float16, np.float32])), [names[i] for i in order]
    )
    made = nearest_neighbours(store, names, k, likeness=kind)
    found, weights = by_hand(vectors.astype(np.float64), present, k, kind)
    assert made.weights == pytest.approx(weights, abs=2e-6)
    assert made.indices.dtype == np.int32
    assert made.weights.dtype == np.float32
    assert np.array_equal(made.indices >= 0, found >= 0)
    if kind == "dot":
        assert np.array_equal(made.indices, found)


def test_equal_directions_are_tied_and_the_lower_code_comes_first():
    vectors = np.repeat(np.random.default_rng(0).normal(size=(1, 24)), 50, axis=0).astype(np.float32)
    names = [f"i{i}" for i in range(50)]
    made = nearest_neighbours(store_of(vectors, names), names, 3)
    assert made.indices[0].tolist() == [1, 2, 3]
    assert made.indices[2].tolist() == [0, 1, 3]
    assert made.indices[49].tolist() == [0, 1, 2]


def test_reads_a_store_on_the_disk_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", 7)
    vectors = np.random.default_rng(0).normal(size=(60, 16)).astype(np.float16)
    names = [f"i{i}" for i in range(60)]
    in_memory = nearest_neighbours(store_of(vectors, names), names, 5)
    on_disk = nearest_neighbours(store_of(vectors, names).write(tmp_path / "s"), names, 5)
    assert np.array_equal(in_memory.indices, on_disk.indices)
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    like = unit @ unit.T
    np.fill_diagonal(like, -2)
    assert np.array_equal(in_memory.indices, np.argsort(-like, axis=1)[:, :5])


class TestCache:
    names = tuple(f"i{i}" for i in range(12))

    def store(self, seed=0):
        return store_of(np.random.default_rng(seed).normal(size=(12, 4)).astype(np.float32), self.names)

    def test_a_kept_result_is_read_and_not_made_again(self, tmp_path, monkeypatch):
        made = nearest_neighbours(self.store(), self.names, 3, cache=tmp_path)
        monkeypatch.setattr(neighbours, "_search", lambda *_: pytest.fail("searched again"))
        again = nearest_neighbours(self.store(), self.names, 3, cache=tmp_path)
        assert np.array_equal(made.indices, again.indices)
        assert np.array_equal(made.weights, again.weights)

    def test_other_vectors_items_k_and_likeness_are_kept_apart(self, tmp_path):
        nearest_neighbours(self.store(), self.names, 3, cache=tmp_path)
        nearest_neighbours(self.store(1), self.names, 3, cache=tmp_path)
        nearest_neighbours(self.store(), self.names[::-1], 3, cache=tmp_path)
        nearest_neighbours(self.store(), self.names, 4, cache=tmp_path)
        nearest_neighbours(self.store(), self.names, 3, likeness="dot", cache=tmp_path)
        assert len(list(tmp_path.iterdir())) == 5

    @pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other"])
    def test_a_damaged_file_is_made_anew(self, tmp_path, damage):
        made = nearest_neighbours(self.store(), self.names, 3, cache=tmp_path)
        (path,) = tmp_path.iterdir()
        content = bytearray(path.read_bytes())
        if damage == "flipped":
            content[len(content) // 3] ^= 255
        elif damage == "other":
            np.savez(path, indices=np.zeros((2, 2)), weights=np.zeros((2, 2)))
            content = bytearray(path.read_bytes())
        else:
            content = content[: len(content) // 2] if damage == "truncated" else bytearray()
        path.write_bytes(content)
        again = nearest_neighbours(self.store(), self.names, 3, cache=tmp_path)
        assert np.array_equal(made.indices, again.indices)
        assert np.load(path)["indices"].shape == (12, 3)


def test_wrong_arguments_are_refused():
    store = store_of(np.ones((2, 2), np.float32), ["a", "b"])
    with pytest.raises(InputError, match="at least one"):
        nearest_neighbours(store, ["a", "b"], 0)
    with pytest.raises(InputError, match="no likeness 'l2'"):
        nearest_neighbours(store, ["a", "b"], 1, likeness="l2")
