"""Decoding sounds (WAV, FLAC, OGG, MP3 and what else libsndfile reads) to mono samples at one rate."""

import io
import re
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_SECONDS = 30.0
"""Sounds are read up to here: enough for what they sound like, and a bound on time and memory."""

MAX_CHANNELS = 64
MAX_RATE = 768_000

_BLOCK = 65_536


class SoundError(ValueError):
    """A sound cannot be used; the message is the reason, in words for a report."""


def decode_sound(
    content: bytes, *, rate: int = 16_000, max_seconds: float = MAX_SECONDS
) -> npt.NDArray[np.float32]:
    """Decode a sound to mono.

    A file that was cut short is read as far as it goes; only in FLAC does libsndfile notice the cut.

    Parameters
    ----------
    content
        The encoded file.
    rate
        Samples per second of the result; the sound is resampled where its own differs.
    max_seconds
        What comes later is not read.

    Returns
    -------
    numpy.ndarray
        Shape ``(samples,)``, at least one, finite, float32, full scale is 1: the mean of the channels.

    Raises
    ------
    SoundError
        If it is not a sound in a known format, is damaged, holds no sample or values that are not finite.
    """
    samples, own = _read(content, max_seconds)
    if own == rate:
        return samples
    # A handful of samples at a high rate would leave none at a lower one.
    if len(samples) * rate < own:
        return samples[:1]
    import librosa

    resampled = librosa.resample(samples, orig_sr=own, target_sr=rate, res_type="soxr_hq")
    return np.asarray(resampled, dtype=np.float32)


def check_sound(content: bytes, *, max_seconds: float = MAX_SECONDS) -> str | None:
    """Return why a sound cannot be used, None if it can."""
    try:
        _read(content, max_seconds)
    except SoundError as error:
        return str(error)
    return None


def _read(content: bytes, max_seconds: float) -> tuple[npt.NDArray[np.float32], int]:
    if not content:
        raise SoundError("the file is empty")
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            if file.channels > MAX_CHANNELS or file.samplerate > MAX_RATE:
                raise SoundError(f"{file.channels} channels at {file.samplerate:,} Hz, which no sound has")
            own = int(file.samplerate)
            samples = _mono(file, int(max_seconds * own))
    except SoundError:
        raise
    except MemoryError:
        raise
    except Exception as error:
        # libsndfile's wrapper raises RuntimeError subclasses and, on damaged headers, others.
        if "not recognised" in str(error) or "Unspecified" in str(error):
            raise SoundError("not a sound in a known format") from error
        raise SoundError(f"damaged sound ({_first_line(error)})") from error
    if len(samples) == 0:
        raise SoundError("it holds no samples")
    if not np.isfinite(samples).all():
        raise SoundError("it holds values that are not finite numbers")
    return samples, own


def _mono(file: Any, limit: int) -> npt.NDArray[np.float32]:
    """Read block by block: a header that claims many channels or hours must not reserve memory for them."""
    blocks = [np.zeros(0, dtype=np.float32)]
    missing = limit
    while missing > 0:
        block = file.read(min(_BLOCK, missing), dtype="float32", always_2d=True)
        if len(block) == 0:
            break
        blocks.append(block.mean(axis=1))
        missing -= len(block)
    return np.concatenate(blocks)


def _first_line(error: BaseException) -> str:
    # The wrapper's messages name the buffer by its address, which would make every report different.
    text = re.sub(r"^Error opening <[^>]*>: ", "", str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__
