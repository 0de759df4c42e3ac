import io
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from prismrec.data.sources.generated_shop import draw_attributes
from prismrec.data.sources.generated_sounds import RATE, wav

STOCK = draw_attributes(200, 0.3, 0)
STRING, BELL, REED, WOOD = 0, 2, 4, 6


def played(item=0, seed=0, **codes):
    stock = replace(STOCK, **{k: np.full(200, v, dtype=np.int8) for k, v in codes.items()})
    signal, rate = soundfile.read(io.BytesIO(wav(stock, item, seed)))
    assert rate == RATE
    return signal


def strongest(signal):
    """Frequency in hertz of the highest peak of the spectrum."""
    return np.argmax(np.abs(np.fft.rfft(signal * np.hanning(len(signal))))) * RATE / len(signal)


def test_a_sound_is_half_a_second_of_mono():
    for item in range(20):
        signal = played(item)
        assert signal.shape == (8000,)
        assert 0.5 < np.abs(signal).max() < 0.95
        assert abs(signal[-1]) < 0.01


def test_the_same_seed_plays_the_same_bytes():
    assert wav(STOCK, 4, 1) == wav(STOCK, 4, 1)
    assert wav(STOCK, 4, 1) != wav(STOCK, 4, 2)


def test_what_only_pictures_and_words_tell_is_not_in_the_sound():
    assert np.array_equal(
        played(3), played(3, colour=1, pattern=2, shape=0, shade=1, material=3, use=2, brand=7)
    )


@pytest.mark.parametrize("timbre", [STRING, REED])
def test_registers(timbre):
    for item in range(10):
        assert 190 < strongest(played(item, voice=timbre, style=0)) < 340
        assert 510 < strongest(played(item, voice=timbre + 1, style=0)) < 900


def test_a_reed_stays_and_wood_is_soon_over():
    def second_half(voice):
        power = played(1, voice=voice, style=0) ** 2
        return power[4000:].sum() / power.sum()

    assert second_half(REED) > 0.2
    assert second_half(WOOD) < 0.01


def test_a_reed_has_odd_harmonics_only_and_a_string_has_all():
    def second_harmonic(voice):
        spectrum = np.abs(np.fft.rfft(played(2, voice=voice, style=0) * np.hanning(8000)))
        base = int(np.argmax(spectrum[:200]))
        return spectrum[2 * base - 2 : 2 * base + 3].max() / spectrum[base]

    assert second_harmonic(STRING) > 0.15
    assert second_harmonic(REED) < 0.05
