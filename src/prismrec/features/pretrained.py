"""What pretrained encoders of all kinds share. Code that comes with a model is never run."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prismrec.base.errors import InputError, PrismError
from prismrec.data.pictures import PictureError
from prismrec.data.sounds import SoundError
from prismrec.features.encoder import ContentT, Encoder, UndecodableError, Vectors
from prismrec.features.encoder_file import write_encoder_file
from prismrec.features.pretrained_source import Source, first_line, need, quiet, unusable

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16"]


class PretrainedEncoder(Encoder[ContentT]):
    """What all pretrained encoders share: batches, device, precision, identity, saving.

    Parameters
    ----------
    source
        The model's files.
    device
        PyTorch device.
    batch_size
        Contents that go through the model at once; changes speed and memory, not the vectors.
    precision
        ``"fp32"``, or ``"bf16"`` for matrix products in bfloat16: faster where the processor has it. Vectors
        then depend in their third digit on what else is in the batch.
    """

    def __init__(self, source: Source, *, device: str, batch_size: int, precision: Precision) -> None:
        if batch_size < 1:
            raise InputError(f"A batch cannot hold {batch_size} contents.", "batch_size must be at least 1.")
        if precision not in ("fp32", "bf16"):
            raise InputError(f"Unknown precision {precision!r}.", "Known: fp32, bf16.")
        _check_device(device)
        self.source: Source = source
        self.device: str = device
        self.batch_size: int = batch_size
        self.precision: Precision = precision
        with loading(source.asked):
            self._load()
            self._dim = len(self._forward([self._prepare(self._sample())])[0])

    @property
    def dim(self) -> int:
        """Size of a vector."""
        return self._dim

    def spec(self) -> dict[str, Any]:
        """Return name, revision, precision, size, and how contents are prepared and states pooled."""
        return {
            "name": self.source.name,
            "revision": self.source.revision,
            "precision": self.precision,
            "dim": self.dim,
            **self._treatment(),
        }

    def encode(self, contents: Sequence[ContentT]) -> tuple[Vectors, list[str | None]]:
        """Encode contents in batches.

        Returns
        -------
        vectors
            Shape ``(len(contents), dim)``; zeros where a problem is named.
        problems
            Why a content cannot be encoded, None where it can.
        """
        vectors = np.zeros((len(contents), self.dim), dtype=np.float32)
        problems: list[str | None] = [None] * len(contents)
        for start in range(0, len(contents), self.batch_size):
            rows, prepared = [], []
            for row in range(start, min(start + self.batch_size, len(contents))):
                try:
                    prepared.append(self._prepare(contents[row]))
                    rows.append(row)
                except (PictureError, SoundError, UndecodableError) as error:
                    problems[row] = str(error)
            if rows:
                vectors[rows] = self._forward(prepared)
        for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist():
            vectors[row] = 0
            problems[row] = "the model gives values that are not finite numbers"
        return vectors, problems

    def save(self, folder: Path) -> None:
        """Write ``encoder.json``: name and revision, not the model's weights."""
        settings = {"asked": self.source.asked, "revision": self.source.revision, "precision": self.precision}
        write_encoder_file(folder, type(self).__name__, settings)

    @abstractmethod
    def _sample(self) -> ContentT:
        """Return any content that can be encoded: the model's answer tells its size."""

    @abstractmethod
    def _load(self) -> None:
        """Load model and preprocessing from `source`."""

    @abstractmethod
    def _treatment(self) -> dict[str, Any]:
        """Return preprocessing and pooling, for `spec`."""

    @abstractmethod
    def _prepare(self, content: ContentT) -> Any:
        """Decode a content.

        Raises
        ------
        PictureError, SoundError, UndecodableError
            With the reason why it cannot be encoded.
        """

    @abstractmethod
    def _forward(self, prepared: list[Any]) -> Vectors:
        """Put prepared contents through the model, shape ``(len(prepared), dim)``."""

    def _run(self, method: Any, inputs: dict[str, Any]) -> Any:
        """Call a model's method on the device, in the precision, without gradients.

        Raises
        ------
        InputError
            If the device's memory does not suffice.
        """
        import torch

        moved = {key: value.to(self.device) for key, value in inputs.items()}
        kind = torch.device(self.device).type
        mixed = torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bf16")
        try:
            with torch.inference_mode(), mixed:
                return method(**moved)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"The memory of {self.device!r} does not hold batches of {self.batch_size} for "
                f"{self.source.asked!r}.",
                "Choose a smaller batch size; the vectors stay the same.",
            ) from error


@contextmanager
def loading(asked: str) -> Iterator[None]:
    """Turn whatever a model's loading raises into one `InputError`; keep the libraries quiet meanwhile.

    Raises
    ------
    InputError
        Names the model, the reason in a line, and what to do.
    """
    need("transformers", f"The encoder {asked!r}")
    try:
        with quiet():
            yield
    except (PrismError, MemoryError):
        raise
    # Loading somebody's files runs through three libraries; each raises what it likes.
    except Exception as error:
        raise unusable(asked, f"it cannot be loaded ({first_line(error)})") from error


def load_model(source: Source, ignored: Sequence[str] = ()) -> tuple[Any, bool]:
    """Load a model's weights, ready for inference, on the CPU in float32.

    Parameters
    ----------
    source
        Where it lies.
    ignored
        Beginnings of the names of weights that this use does not need.

    Returns
    -------
    model
        What AutoModel makes of it.
    has_pooler
        Whether the files hold the weights of the model's pooler, if it has one.

    Raises
    ------
    InputError
        If other weights are missing: they would be random, and so would the vectors.
    """
    import torch
    from transformers import AutoModel

    model, info = AutoModel.from_pretrained(
        source.folder,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    missing = [key for key in info["missing_keys"] if not key.startswith(tuple(ignored))]
    # The mask embedding is used in training only.
    needed = [key for key in missing if "pooler" not in key and "masked_spec_embed" not in key]
    if needed or info.get("mismatched_keys"):
        shown = ", ".join(sorted(map(str, needed or info["mismatched_keys"]))[:3])
        raise unusable(source.asked, f"its files lack weights of the model, e.g. {shown}")
    return model.to(torch.float32).eval(), not any("pooler" in key for key in missing)


def mean_over(states: "torch.Tensor", mask: "torch.Tensor | None" = None) -> "torch.Tensor":
    """Mean of states ``(B, T, D)`` over T, of those that `mask` ``(B, T)`` keeps; shape ``(B, D)``."""
    states = states.float()
    if mask is None:
        return states.mean(dim=1)
    weights = mask.to(states.dtype).unsqueeze(-1)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


def _check_device(device: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"The device {device!r} cannot be used ({first_line(error)}).", "Use 'cpu'."
        ) from error
