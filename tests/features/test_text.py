import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from prismrec.base.errors import DamagedError, InputError
from prismrec.features.text import NO_TEXT, UNKNOWN_TERMS, TfidfSvdEncoder

TEXTS = [
    "a red wooden chair for the kitchen",
    "a red wooden table for the kitchen",
    "a blue cotton shirt with long sleeves",
    "a blue cotton dress with short sleeves",
    "an electric guitar with six strings",
    "an acoustic guitar with nylon strings",
]


@pytest.fixture(scope="module")
def fitted() -> TfidfSvdEncoder:
    encoder = TfidfSvdEncoder()
    encoder.fit(TEXTS)
    return encoder


def test_at_full_rank_the_angles_are_those_of_tfidf(fitted):
    # Six texts span six dimensions: nothing is lost, so all inner products are those before the reduction.
    weights = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, strip_accents="unicode")
    plain = weights.fit_transform(TEXTS).toarray()
    vectors, problems = fitted.encode(TEXTS)
    assert problems == [None] * 6
    assert fitted.dim == 6
    assert vectors @ vectors.T == pytest.approx(plain @ plain.T, abs=1e-5)


def test_like_texts_are_near(fitted):
    vectors, _ = fitted.encode(TEXTS)
    alike = vectors @ vectors.T - 2 * np.eye(6)
    assert alike.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4]


def test_the_size_is_at_most_what_is_asked_for():
    encoder = TfidfSvdEncoder(dim=2)
    encoder.fit(TEXTS)
    assert encoder.dim == 2
    assert encoder.encode(TEXTS)[0].shape == (6, 2)


def test_repeated_texts_add_no_dimension():
    encoder = TfidfSvdEncoder()
    encoder.fit(TEXTS[:2] * 10)
    assert encoder.dim == 2


def test_one_text_is_enough():
    encoder = TfidfSvdEncoder()
    encoder.fit(["lamp"])
    vectors, problems = encoder.encode(["a lamp", "a chair"])
    assert np.abs(vectors).tolist() == [[1.0], [0.0]]
    assert problems == [None, UNKNOWN_TERMS]


def test_texts_without_a_known_word_are_zero_and_named(fitted):
    vectors, problems = fitted.encode(["", " \n", "xylophone", TEXTS[0]])
    assert problems == [NO_TEXT, NO_TEXT, UNKNOWN_TERMS, None]
    assert not vectors[:3].any()
    assert np.linalg.norm(vectors[3]) == pytest.approx(1, abs=1e-6)


def test_an_empty_batch_has_the_right_shape(fitted):
    vectors, problems = fitted.encode([])
    assert vectors.shape == (0, 6)
    assert problems == []


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(6)), count=st.integers(1, 6))
def test_a_vector_does_not_depend_on_its_batch_to_the_last_bit(order, count):
    encoder = TfidfSvdEncoder(dim=4)
    encoder.fit(TEXTS)
    alone = [encoder.encode([text])[0][0] for text in TEXTS]
    together, _ = encoder.encode([TEXTS[row] for row in order[:count]])
    assert np.array_equal(together, np.stack([alone[row] for row in order[:count]]))


def test_rare_terms_are_left_out_of_large_catalogues_only():
    small, large = TfidfSvdEncoder(), TfidfSvdEncoder()
    small.fit(["lamp", *["red chair"] * 20])
    large.fit(["lamp", *["red chair"] * 300])
    assert small.encode(["lamp"])[1] == [None]
    assert large.encode(["lamp"])[1] == [UNKNOWN_TERMS]


def test_a_large_catalogue_of_unrelated_texts_still_has_terms():
    encoder = TfidfSvdEncoder(dim=8)
    encoder.fit([f"word{number}" for number in range(300)])
    assert encoder.dim == 8


@pytest.mark.parametrize("texts", [[], [""], ["  ", "\n"], ["a", "! ?"]])
def test_nothing_to_learn_from_is_refused(texts):
    with pytest.raises(InputError):
        TfidfSvdEncoder().fit(texts)


def test_before_fit_nothing_works(tmp_path):
    encoder = TfidfSvdEncoder()
    with pytest.raises(InputError, match="fit"):
        encoder.encode(["lamp"])
    with pytest.raises(InputError, match="fit"):
        _ = encoder.dim
    with pytest.raises(InputError, match="fit"):
        encoder.save(tmp_path)


def test_no_dimension_is_refused():
    with pytest.raises(InputError, match="0 dimensions"):
        TfidfSvdEncoder(dim=0)


def test_fit_is_deterministic(fitted):
    again = TfidfSvdEncoder()
    again.fit(TEXTS)
    assert again.spec() == fitted.spec()


def test_the_spec_tells_what_was_learnt(fitted):
    other = TfidfSvdEncoder()
    other.fit(TEXTS[:4])
    assert "state" not in TfidfSvdEncoder().spec()
    assert other.spec()["state"] != fitted.spec()["state"]
    json.dumps(fitted.spec())


def test_saved_and_read_it_gives_the_same_bits(fitted, tmp_path):
    fitted.save(tmp_path / "encoder")
    again = TfidfSvdEncoder.load(tmp_path / "encoder")
    texts = [*TEXTS, "a red guitar", "nothing", "Blüe çotton"]
    assert np.array_equal(again.encode(texts)[0], fitted.encode(texts)[0])
    assert again.encode(texts)[1] == fitted.encode(texts)[1]
    assert again.spec() == fitted.spec()
    kinds = {path.suffix for path in (tmp_path / "encoder").iterdir()}
    assert kinds == {".json", ".safetensors"}


@pytest.mark.parametrize("name", ["terms.json", "weights.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_damage_is_noticed(fitted, tmp_path, name, damage):
    fitted.save(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif name == "terms.json":
        path.write_bytes(content.replace(b"guitar", b"violin"))
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedError):
        TfidfSvdEncoder.load(tmp_path)
