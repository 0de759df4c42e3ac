import io

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.data.sounds import MAX_SECONDS, SoundError, check_sound, decode_sound

FORMATS = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]


def encoded(samples, rate: int = 16_000, form: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.asarray(samples), rate, format=form, subtype=subtype)
    return buffer.getvalue()


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def pitch(samples: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


@pytest.mark.parametrize(("form", "subtype"), FORMATS)
def test_formats_keep_length_and_pitch(form, subtype):
    samples = decode_sound(encoded(tone(1.0, 44_100), 44_100, form, subtype))
    assert samples.dtype == np.float32
    assert abs(len(samples) - 16_000) < 1_200  # MP3 frames are filled up
    assert pitch(samples, 16_000) == pytest.approx(440, abs=3)
    assert np.sqrt(np.mean(samples**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


def test_samples_at_the_same_rate_come_back():
    own = tone(0.1, 16_000)
    assert decode_sound(encoded(own, subtype="FLOAT")) == pytest.approx(own, abs=1e-7)


def test_channels_are_averaged():
    both = np.stack([np.full(100, 0.5), np.full(100, -0.1)], axis=1)
    assert decode_sound(encoded(both, subtype="FLOAT")) == pytest.approx(np.full(100, 0.2))


def test_only_the_beginning_is_read():
    assert len(decode_sound(encoded(np.zeros(32 * 16_000)))) == int(MAX_SECONDS * 16_000)
    assert len(decode_sound(encoded(np.zeros(16_000)), max_seconds=0.25)) == 4_000


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("rate", [8_000, 16_000, 96_000])
def test_a_few_samples_suffice(count, rate):
    samples = decode_sound(encoded(np.full(count, 0.25), rate))
    assert len(samples) >= 1
    assert np.isfinite(samples).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<html>404</html>" * 30, "not a sound"),
        (bytes(5_000), "not a sound"),
        (encoded(np.zeros(0)), "no samples"),
        (encoded(np.array([0.0, np.nan]), subtype="FLOAT"), "not finite"),
        (encoded(np.zeros((10, 65))), "65 channels"),
    ],
    # Named by hand: a float WAV holds the time of day, and workers must agree on the names.
    ids=["empty", "page", "zeros", "silent", "nan", "channels"],
)
def test_what_cannot_be_used_is_refused(content, reason):
    assert reason in check_sound(content)
    with pytest.raises(SoundError, match=reason):
        decode_sound(content)


@pytest.mark.parametrize("part", [0.001, 0.3, 0.9])
def test_a_cut_flac_is_refused_with_the_same_words_every_time(part):
    content = encoded(np.random.default_rng(0).normal(0, 0.1, 40_000), form="FLAC")
    cut = content[: int(len(content) * part)]
    assert check_sound(cut)
    assert check_sound(cut) == check_sound(cut)
    assert "0x" not in check_sound(cut)


def test_a_sound_that_can_be_used_has_no_reason():
    assert check_sound(encoded(tone(0.1, 16_000))) is None


@settings(max_examples=40, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=16))
def test_no_damage_raises_anything_but_a_sound_error(place, junk):
    content = encoded(tone(0.05, 16_000))
    start = int(place * len(content))
    damaged = content[:start] + junk + content[start + len(junk) :]
    if check_sound(damaged) is None:
        assert np.isfinite(decode_sound(damaged)).all()
