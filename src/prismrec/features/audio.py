"""The default encoder for sounds: statistics of MFCCs, spectral shape and chroma. It needs no download."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from prismrec.data.sounds import MAX_SECONDS, SoundError, decode_sound
from prismrec.features.encoder import Encoder, Vectors
from prismrec.features.encoder_file import write_encoder_file

Floats = npt.NDArray[np.float64]

_RATE = 16_000
_WINDOW = 1024
_HOP = 512
_MELS = 64
_COEFFICIENTS = 20
_QUANTILES = (0.1, 0.5, 0.9)
# Shorter sounds are filled up with silence: the deltas need nine frames.
_SHORTEST = 10 * _HOP
# Decibels: what lies further below full scale counts as silence.
_FLOOR_DB = -100.0

_DIM = _COEFFICIENTS * 5 + _COEFFICIENTS * 2 + 5 * 5 + 12 * 2


class MfccEncoder(Encoder[bytes]):
    """What a sound sounds like over its first 30 seconds, 189 numbers.

    Twenty mel-frequency cepstral coefficients with mean, deviation and three quantiles over time (100), their
    changes over time with mean and deviation (40), spectral centroid, bandwidth and roll-off, zero-crossing
    rate and loudness with five statistics each (25), and the twelve pitch classes with mean and deviation
    (24). All are brought to about the range -1 to 1 by fixed factors.
    """

    kind: ClassVar[str] = "audio"

    @property
    def dim(self) -> int:
        """Size of a vector."""
        return _DIM

    def spec(self) -> dict[str, Any]:
        """Return name and revision; the revision changes with anything that changes a vector."""
        return {"name": "mfcc", "revision": "1", "dim": _DIM, "rate": _RATE, "seconds": MAX_SECONDS}

    def encode(self, contents: Sequence[bytes]) -> tuple[Vectors, list[str | None]]:
        """Encode sounds, one after the other.

        Returns
        -------
        vectors
            Shape ``(len(contents), dim)``; zeros where a problem is named.
        problems
            Why a sound cannot be decoded, None where it can.
        """
        vectors = np.zeros((len(contents), _DIM), dtype=np.float32)
        problems: list[str | None] = []
        for row, content in enumerate(contents):
            try:
                vectors[row] = describe(decode_sound(content, rate=_RATE))
                problems.append(None)
            except SoundError as error:
                problems.append(str(error))
        return vectors, problems

    def save(self, folder: Path) -> None:
        """Write ``encoder.json`` into a folder."""
        write_encoder_file(folder, type(self).__name__, self.spec())


def describe(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Describe mono samples at 16 kHz; shape ``(dim,)``. See `MfccEncoder`."""
    import librosa
    from librosa import feature

    if len(samples) < _SHORTEST:
        samples = np.pad(samples, (0, _SHORTEST - len(samples)))
    # Full scale is 1; what floating-point files hold beyond it would overflow the powers below.
    samples = np.clip(samples, -4.0, 4.0)
    magnitude = np.abs(librosa.stft(samples, n_fft=_WINDOW, hop_length=_HOP)).astype(np.float64)
    power = np.square(magnitude)
    # Decibels against a fixed reference: against the loudest frame, a click would change all the others.
    mel = feature.melspectrogram(S=power, sr=_RATE, n_mels=_MELS) / (_WINDOW / 4) ** 2
    decibels = librosa.power_to_db(mel, ref=1.0, amin=10 ** (_FLOOR_DB / 10), top_db=None)
    mfcc = feature.mfcc(S=1.0 - 2.0 * decibels / _FLOOR_DB, n_mfcc=_COEFFICIENTS) / 2.0
    # The first is the mean over the bands times the root of their number, which would drown the others.
    mfcc[0] *= 2.0 / np.sqrt(_MELS)
    deltas = feature.delta(mfcc, width=9) * 10.0
    # Tuning is taken as exact: estimating it is slow, and arbitrary for sounds without pitch.
    chroma = feature.chroma_stft(S=power, sr=_RATE, n_fft=_WINDOW, tuning=0.0)
    shape = _shape(samples, magnitude)
    parts = [_five(mfcc), _two(deltas), _five(shape), _two(chroma)]
    return np.concatenate(parts).astype(np.float32)


def _shape(samples: npt.NDArray[np.float32], magnitude: Floats) -> Floats:
    """Centroid, bandwidth, roll-off, zero crossings and loudness over time, shape ``(5, frames)``."""
    from librosa import feature

    top = _RATE / 2
    centroid = feature.spectral_centroid(S=magnitude, sr=_RATE) / top
    bandwidth = feature.spectral_bandwidth(S=magnitude, sr=_RATE, centroid=centroid * top) / top
    rolloff = feature.spectral_rolloff(S=magnitude, sr=_RATE) / top
    crossings = feature.zero_crossing_rate(samples, frame_length=_WINDOW, hop_length=_HOP)
    rms = feature.rms(y=samples, frame_length=_WINDOW, hop_length=_HOP)
    loudness = 1.0 + np.maximum(20 * np.log10(rms + 1e-12), _FLOOR_DB) / -_FLOOR_DB
    return np.concatenate([centroid, bandwidth, rolloff, crossings, loudness])


def _two(series: Floats) -> Floats:
    return np.concatenate([series.mean(axis=1), series.std(axis=1)])


def _five(series: Floats) -> Floats:
    return np.concatenate([_two(series), np.quantile(series, _QUANTILES, axis=1).ravel()])
