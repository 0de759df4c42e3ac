"""The default encoder for texts: TF-IDF of words and word pairs, reduced by a truncated SVD."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from prismrec.base.errors import DamagedError, InputError
from prismrec.base.files import atomic_path, digest, read_json, write_json
from prismrec.features.encoder import Encoder, Vectors
from prismrec.features.encoder_file import read_encoder_file, write_encoder_file

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

MAX_TERMS = 50_000
"""The commonest terms are kept: bounds the components to 51 MB at 256 dimensions."""

UNKNOWN_TERMS = "no known term"
NO_TEXT = "the text is empty"

_TERMS = "terms.json"
_WEIGHTS = "weights.safetensors"
_SEED = 0
# Directions whose singular value is below this part of the largest are rounding errors.
_RANK_TOLERANCE = 1e-5


@dataclass(frozen=True)
class _State:
    """What `fit` learns: terms, their inverse document frequencies (T,) and components (dim, T)."""

    terms: list[str]
    idf: npt.NDArray[np.float32]
    components: npt.NDArray[np.float32]

    def digest(self) -> str:
        return digest("\n".join(self.terms).encode(), self.idf.tobytes(), self.components.tobytes())


class TfidfSvdEncoder(Encoder[str]):
    """TF-IDF of words and word pairs, reduced by a truncated SVD, rows of length one.

    Lower case, accents stripped, words of two letters or more, logarithmic term frequency, smoothed inverse
    document frequency. Terms of very few texts are left out, the fewer the texts the less strictly.

    Parameters
    ----------
    dim
        Size of a vector at most; texts or terms that span fewer dimensions give fewer.

    Raises
    ------
    InputError
        If `dim` is less than one.
    """

    kind: ClassVar[str] = "text"
    needs_fit: ClassVar[bool] = True

    def __init__(self, dim: int = 256) -> None:
        if dim < 1:
            raise InputError(f"A text vector cannot have {dim} dimensions.", "dim must be at least 1.")
        self._wanted = dim
        self._state: _State | None = None
        self._vectorizer: TfidfVectorizer | None = None

    @property
    def dim(self) -> int:
        """Size of a vector.

        Raises
        ------
        InputError
            Before `fit`.
        """
        return len(self._fitted().components)

    def spec(self) -> dict[str, Any]:
        """Return name, revision and settings; after `fit` also a digest of what was learnt (``state``)."""
        spec: dict[str, Any] = {"name": "tfidf-svd", "revision": "1", "dim": self._wanted, "ngrams": [1, 2]}
        if self._state is not None:
            spec["state"] = self._state.digest()
        return spec

    def fit(self, contents: Sequence[str]) -> None:
        """Learn terms and components.

        Parameters
        ----------
        contents
            The catalogue's texts. Their order does not matter to the terms.

        Raises
        ------
        InputError
            If there is no text, or no word in any of them.
        """
        if not any(text.strip() for text in contents):
            raise InputError("There is no text to learn the text encoder from.", "Name the text columns.")
        vectorizer, weights = _learn_terms(contents)
        components = _components(weights, min(self._wanted, *weights.shape))
        terms = vectorizer.get_feature_names_out().tolist()
        self._set(_State(terms, np.asarray(vectorizer.idf_, dtype=np.float32), components))

    def encode(self, contents: Sequence[str]) -> tuple[Vectors, list[str | None]]:
        """Encode texts.

        Returns
        -------
        vectors
            Shape ``(len(contents), dim)``, rows of Euclidean length one, or zero where a problem is named.
        problems
            `NO_TEXT` or `UNKNOWN_TERMS` where a text has nothing that the encoder knows.

        Raises
        ------
        InputError
            Before `fit`.
        """
        state = self._fitted()
        if len(contents) == 0:
            return np.zeros((0, self.dim), dtype=np.float32), []
        assert self._vectorizer is not None
        weights = self._vectorizer.transform(contents)
        # Sparse times dense goes row by row and term by term: no row depends on the others, not even in its
        # last bit.
        vectors = np.asarray(weights @ state.components.T, dtype=np.float32)
        lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
        usable = lengths[:, 0] > 1e-6
        vectors = np.where(usable[:, None], vectors / np.where(lengths > 0, lengths, 1), 0).astype(np.float32)
        problems: list[str | None] = [None] * len(contents)
        for row in np.flatnonzero(~usable).tolist():
            problems[row] = UNKNOWN_TERMS if contents[row].strip() else NO_TEXT
        return vectors, problems

    def save(self, folder: Path) -> None:
        """Write terms, weights and ``encoder.json`` into a folder.

        Raises
        ------
        InputError
            Before `fit`.
        StorageError
            If the disk refuses.
        """
        from safetensors.numpy import save_file

        state = self._fitted()
        write_json(folder / _TERMS, {"terms": state.terms})
        with atomic_path(folder / _WEIGHTS) as temporary:
            save_file({"idf": state.idf, "components": state.components}, temporary)
        write_encoder_file(folder, type(self).__name__, {"dim": self._wanted, "state": state.digest()})

    @classmethod
    def load(cls, folder: Path) -> "TfidfSvdEncoder":
        """Read what `save` wrote; the vectors are the same to the bit.

        Raises
        ------
        InputError
            If the folder holds no encoder.
        DamagedError
            If a file is missing or altered.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        _, settings = read_encoder_file(folder)
        try:
            terms = read_json(folder / _TERMS, "a text encoder")["terms"]
            weights = load_file(folder / _WEIGHTS)
            state = _State(terms, weights["idf"], weights["components"])
            whole = state.digest() == settings["state"]
            encoder = cls(settings["dim"])
        except (InputError, KeyError, TypeError, OSError, SafetensorError) as error:
            raise DamagedError(
                f"{folder}: the text encoder is incomplete ({error}).", "Encode again."
            ) from error
        if not whole:
            raise DamagedError(f"{folder}: the text encoder's files were altered.", "Encode again.")
        encoder._set(state)
        return encoder

    def _fitted(self) -> _State:
        if self._state is None:
            raise InputError(
                "The text encoder has not learnt its terms yet.", "Call fit with the texts first."
            )
        return self._state

    def _set(self, state: _State) -> None:
        vectorizer = _vectorizer(vocabulary=state.terms)
        vectorizer.idf_ = state.idf
        self._state, self._vectorizer = state, vectorizer


def _vectorizer(**settings: Any) -> "TfidfVectorizer":
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, strip_accents="unicode", dtype=np.float32, **settings
    )


def _learn_terms(contents: Sequence[str]) -> "tuple[TfidfVectorizer, Any]":
    rarest = _min_texts(len(contents))
    # Where texts share no term at all, the ones that stand in a single text are all there is.
    for min_df in sorted({rarest, 1}, reverse=True):
        vectorizer = _vectorizer(min_df=min_df, max_features=MAX_TERMS)
        try:
            return vectorizer, vectorizer.fit_transform(contents)
        except ValueError:
            continue
    raise InputError(
        f"None of the {len(contents):,} texts holds a word of two letters or more.", "Check the text columns."
    )


def _components(weights: Any, size: int) -> npt.NDArray[np.float32]:
    """Right singular vectors of the largest singular values, shape ``(at most size, terms)``."""
    if weights.shape[1] == 1:  # The solver asks for two terms at least.
        return np.ones((1, 1), dtype=np.float32)
    from sklearn.decomposition import TruncatedSVD

    # The solver divides by the total variance, which is zero for a single text; we do not use the ratio.
    with np.errstate(invalid="ignore", divide="ignore"):
        svd = TruncatedSVD(size, random_state=_SEED).fit(weights)
    kept = svd.singular_values_ > _RANK_TOLERANCE * svd.singular_values_[0]
    return np.ascontiguousarray(svd.components_[kept], dtype=np.float32)


def _min_texts(texts: int) -> int:
    """In how many texts a term must stand to be kept."""
    if texts < 200:
        return 1
    return 2 if texts < 5_000 else 3
