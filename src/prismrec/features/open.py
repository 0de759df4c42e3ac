"""Encoders by name, and encoders that were saved."""

from pathlib import Path
from typing import Any

from prismrec.base.errors import DamagedError, InputError
from prismrec.features.audio import MfccEncoder
from prismrec.features.encoder import Encoder
from prismrec.features.encoder_file import FILE, read_encoder_file
from prismrec.features.image import DescriptorEncoder
from prismrec.features.pretrained import Precision
from prismrec.features.pretrained_audio import PretrainedAudioEncoder
from prismrec.features.pretrained_image import PretrainedImageEncoder
from prismrec.features.pretrained_source import Source, find_source
from prismrec.features.pretrained_text import PretrainedTextEncoder
from prismrec.features.text import TfidfSvdEncoder

DEFAULT = "default"

_AGAIN = "Encode again."
_OURS = (
    *("TfidfSvdEncoder", "DescriptorEncoder", "MfccEncoder"),
    *("PretrainedTextEncoder", "PretrainedImageEncoder", "PretrainedAudioEncoder"),
)


def make_encoder(
    kind: str,
    name: str = DEFAULT,
    *,
    revision: str | None = None,
    device: str = "cpu",
    batch_size: int = 32,
    precision: Precision = "fp32",
) -> Encoder[Any]:
    """Make an encoder.

    Parameters
    ----------
    kind
        ``"text"``, ``"image"`` or ``"audio"``.
    name
        ``"default"`` for the one that needs no download, else a pretrained model's hub id or local folder.
    revision
        Branch, tag or commit of a model on the hub.
    device, batch_size, precision
        Where and how a pretrained model runs; the default encoders have no use for them.

    Returns
    -------
    Encoder
        Of contents of that kind. Check `Encoder.needs_fit`.

    Raises
    ------
    InputError
        If the kind is unknown, or the model unknown, unreachable or not usable.
    MissingExtraError
        If a pretrained model is asked for without the extra ``encoders``.
    """
    if kind not in ("text", "image", "audio"):
        raise InputError(f"There is no encoder for {kind!r}.", "Known kinds: text, image, audio.")
    if name == DEFAULT:
        return _default(kind)
    source = find_source(name, revision)
    return _pretrained(kind, source, device=device, batch_size=batch_size, precision=precision)


def foreign_class(folder: Path) -> str | None:
    """Return the class of a saved encoder if it is one of the user's own; None if it is prismrec's.

    Raises
    ------
    InputError
        If the folder holds no encoder, or one of a newer prismrec.
    DamagedError
        If the file that names the class is damaged.
    """
    name, _ = read_encoder_file(Path(folder))
    return None if name in _OURS else name


def load_encoder(folder: Path, *, device: str = "cpu", batch_size: int = 32) -> Encoder[Any]:
    """Read an encoder that `Encoder.save` wrote.

    Parameters
    ----------
    folder
        Where.
    device, batch_size
        Where and how a pretrained model runs.

    Returns
    -------
    Encoder
        Of the same spec.

    Raises
    ------
    InputError
        If the folder holds no encoder, or one of the user's own (it holds no code), or a pretrained model's
        weights are gone or have changed.
    DamagedError
        If the folder is incomplete or altered.
    MissingExtraError
        If it is a pretrained model and the extra ``encoders`` is not installed.
    """
    folder = Path(folder)
    name, settings = read_encoder_file(folder)
    match name:
        case "TfidfSvdEncoder":
            return TfidfSvdEncoder.load(folder)
        case "DescriptorEncoder":
            return _unchanged(folder, DescriptorEncoder(), settings)
        case "MfccEncoder":
            return _unchanged(folder, MfccEncoder(), settings)
        case "PretrainedTextEncoder" | "PretrainedImageEncoder" | "PretrainedAudioEncoder":
            kind = name.removeprefix("Pretrained").removesuffix("Encoder").lower()
            asked, revision, precision = (settings.get(key) for key in ("asked", "revision", "precision"))
            if not (isinstance(asked, str) and isinstance(revision, str) and precision in ("fp32", "bf16")):
                raise DamagedError(f"{folder / FILE}: the file is damaged, a field is missing.", _AGAIN)
            source = find_source(asked, revision)
            return _pretrained(kind, source, device=device, batch_size=batch_size, precision=precision)
    raise InputError(
        f"{folder / FILE}: names the encoder class {name!r}, which is not prismrec's, and no code.",
        "Make the encoder in Python, and hand it to what needs it.",
    )


def _default(kind: str) -> Encoder[Any]:
    match kind:
        case "text":
            return TfidfSvdEncoder()
        case "image":
            return DescriptorEncoder()
    return MfccEncoder()


def _pretrained(
    kind: str, source: Source, *, device: str, batch_size: int, precision: Precision
) -> Encoder[Any]:
    match kind:
        case "text":
            return PretrainedTextEncoder(source, device=device, batch_size=batch_size, precision=precision)
        case "image":
            return PretrainedImageEncoder(source, device=device, batch_size=batch_size, precision=precision)
    return PretrainedAudioEncoder(source, device=device, batch_size=batch_size, precision=precision)


def _unchanged(folder: Path, encoder: Encoder[Any], settings: dict[str, Any]) -> Encoder[Any]:
    """Vectors of another revision must not be mixed with those that are there."""
    if encoder.spec() != settings:
        raise InputError(f"{folder}: written by a prismrec whose {settings.get('name')} differs.", _AGAIN)
    return encoder
