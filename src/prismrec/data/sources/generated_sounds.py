"""Sounds of the generated shop's products: half a second each.

A sound tells an item's voice (four timbres in two registers) and, more softly, its style. Note, loudness and
a little noise vary at random and mean nothing.
"""

import io

import numpy as np
import numpy.typing as npt

from prismrec.data.sources.generated_shop import Attributes, Stream, generator

RATE = 16_000
"""Samples a second."""

SECONDS = 0.5

Signal = npt.NDArray[np.float64]

_NOTES = 2.0 ** (np.array([0, 2, 4, 7, 9]) / 12)
"""A pentatonic scale, so that any two products sound well together."""

_REGISTERS = (196.0, 523.25)
"""Lowest note of the low and the high register, in hertz."""

# One row per style: seconds until full loudness, speed of decay (1 is usual), depth of vibrato, echo.
_STYLES = (
    (0.004, 1.0, 0.000, 0.0),
    (0.004, 0.8, 0.012, 0.0),
    (0.030, 1.3, 0.000, 0.0),
    (0.004, 2.2, 0.000, 0.6),
    (0.070, 0.6, 0.004, 0.0),
)


def wav(attributes: Attributes, item: int, seed: int) -> bytes:
    """Play an item and return a WAV file: mono, 16 bit, `RATE` samples a second, `SECONDS` long.

    Parameters
    ----------
    attributes
        The stock.
    item
        Code of the item. Whether it `has_sound` is not asked here.
    seed
        Seed.
    """
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, _play(attributes, item, seed), RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _play(attributes: Attributes, item: int, seed: int) -> Signal:
    chance = generator(seed, Stream.SOUNDS, item)
    timbre, register = divmod(int(attributes.voice[item]), len(_REGISTERS))
    attack, decay, vibrato, echo = _STYLES[int(attributes.style[item])]
    pitch = _REGISTERS[register] * chance.choice(_NOTES) * chance.normal(1.0, 0.003)
    time = np.arange(int(RATE * SECONDS)) / RATE
    phase = 2 * np.pi * pitch * (time - vibrato * np.cos(2 * np.pi * 6.0 * time) / (2 * np.pi * 6.0))
    signal = _TIMBRES[timbre](phase, time * decay) * np.minimum(time / attack, 1.0)
    if timbre == _NOISY:
        signal += 0.25 * chance.normal(size=len(time)) * np.exp(-60 * time)
    if echo:
        delay = int(0.18 * RATE)
        signal[delay:] += echo * signal[:-delay]
    signal += chance.normal(0.0, 0.002, len(time))
    # The last 20 ms fade, so that no sound ends in a click.
    signal *= np.minimum((SECONDS - time) / 0.02, 1.0)
    return np.asarray(signal / np.abs(signal).max() * chance.uniform(0.6, 0.9))


def _string(phase: Signal, time: Signal) -> Signal:
    """Pluck: all harmonics, the high ones fade first."""
    signal = np.zeros_like(phase)
    for n in range(1, 9):
        signal += np.sin(n * phase) / n * np.exp(-(3.0 + 2.2 * n) * time)
    return signal


def _bell(phase: Signal, time: Signal) -> Signal:
    """Strike: partials that are no multiples of each other."""
    signal = np.zeros_like(phase)
    for ratio, loudness in ((1.0, 1.0), (2.76, 0.6), (5.4, 0.35), (8.93, 0.15)):
        signal += loudness * np.sin(ratio * phase) * np.exp(-2.5 * np.sqrt(ratio) * time)
    return signal


def _reed(phase: Signal, time: Signal) -> Signal:
    """Blow: odd harmonics that stay."""
    signal = np.zeros_like(phase)
    for n in (1, 3, 5, 7):
        signal += np.sin(n * phase) / n
    return signal * np.exp(-1.2 * time)


def _wood(phase: Signal, time: Signal) -> Signal:
    """Knock: two partials, soon over."""
    return np.asarray((np.sin(phase) + 0.4 * np.sin(3.9 * phase)) * np.exp(-22.0 * time))


_TIMBRES = (_string, _bell, _reed, _wood)
_NOISY = _TIMBRES.index(_wood)
