import io

import numpy as np
import pytest
import soundfile

from prismrec.features.audio import MfccEncoder, describe

RATE = 16_000
PITCHES = slice(165, 177)
LOUDNESS = 144
MEAN_OF_SHAPE = slice(140, 145)


def encoded(samples, rate: int = RATE, form: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.asarray(samples), rate, format=form, subtype=subtype)
    return buffer.getvalue()


def tone(hertz: float, seconds: float = 1.0, rate: int = RATE, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(RATE),
        np.zeros(1),
        np.ones(1),
        np.ones(5),
        np.full(200, -1.0),
        tone(440, 0.05),
        np.full(RATE, 1e30),
        np.eye(1, 4_000, 2_000)[0],
    ],
)
def test_silent_short_and_absurd_sounds_have_finite_vectors(samples):
    encoder = MfccEncoder()
    vectors, problems = encoder.encode([encoded(samples, subtype="FLOAT")])
    assert problems == [None]
    assert vectors.shape == (1, encoder.dim)
    assert np.isfinite(vectors).all()
    assert np.abs(vectors).max() < 5


def test_no_sounds():
    vectors, problems = MfccEncoder().encode([])
    assert vectors.shape == (0, 189)
    assert problems == []


def test_what_cannot_be_decoded_is_zero_and_named():
    vectors, problems = MfccEncoder().encode([b"", encoded(tone(440)), b"fake" * 300])
    assert [problem is None for problem in problems] == [False, True, False]
    assert vectors.any(axis=1).tolist() == [False, True, False]


def test_a_vector_does_not_depend_on_its_batch_to_the_last_bit():
    contents = [encoded(tone(300, s)) for s in (0.01, 0.4, 2.0)]
    encoder = MfccEncoder()
    together, _ = encoder.encode(contents)
    for row, content in enumerate(contents):
        assert np.array_equal(encoder.encode([content])[0][0], together[row])


@pytest.mark.parametrize(("hertz", "pitch"), [(261.63, 0), (329.63, 4), (440.0, 9), (880.0, 9)])
def test_pitch_classes(hertz, pitch):
    # Pitch classes count from C; A is the tenth.
    vector = describe(tone(hertz).astype(np.float32))
    assert int(vector[PITCHES].argmax()) == pitch


@pytest.mark.parametrize("hertz", [500, 1_000, 3_000])
def test_centroid_of_a_tone_is_its_pitch(hertz):
    vector = describe(tone(hertz).astype(np.float32))
    assert vector[MEAN_OF_SHAPE][0] * RATE / 2 == pytest.approx(hertz, rel=0.1)
    # Zero crossings: two a period.
    assert vector[MEAN_OF_SHAPE][3] * RATE == pytest.approx(2 * hertz, rel=0.05)


def test_loudness_is_in_decibels_below_full_scale():
    loud = describe(tone(440, level=0.5).astype(np.float32))[LOUDNESS]
    soft = describe(tone(440, level=0.05).astype(np.float32))[LOUDNESS]
    assert (loud - soft) * 100 == pytest.approx(20, abs=0.5)
    assert (loud - 1) * 100 == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=1)


def test_silence_after_a_sound_does_not_change_how_loud_the_sound_counts():
    # Decibels have a fixed reference: the tone's frames are the same whatever follows.
    alone = describe(tone(440, 1.0).astype(np.float32))
    followed = describe(np.concatenate([tone(440, 1.0), np.zeros(RATE // 2)]).astype(np.float32))
    medians = slice(60, 80)
    assert followed[medians] == pytest.approx(alone[medians], abs=0.02)


def test_like_sounds_are_near():
    rng = np.random.default_rng(0)
    a = describe(tone(440).astype(np.float32))
    b = describe((tone(440) + rng.normal(0, 0.001, RATE)).astype(np.float32))
    noise = describe(rng.normal(0, 0.3, RATE).astype(np.float32))
    assert np.linalg.norm(a - b) < np.linalg.norm(a - noise)


@pytest.mark.parametrize(
    ("form", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]
)
def test_the_format_matters_little(form, subtype):
    samples = tone(440, 2.0) + 0.1 * tone(1_300, 2.0)
    encoder = MfccEncoder()
    vectors, _ = encoder.encode([encoded(samples), encoded(samples, RATE, form, subtype)])
    centred = np.linalg.norm(vectors[0] - vectors[1]) / np.linalg.norm(vectors[0])
    assert centred < 0.35


def test_only_thirty_seconds_count():
    long = np.concatenate([tone(440, 30.0), tone(2_000, 5.0)])
    vectors, _ = MfccEncoder().encode([encoded(long), encoded(long[: 30 * RATE])])
    assert np.array_equal(vectors[0], vectors[1])


def test_saving_leaves_json_only(tmp_path):
    MfccEncoder().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.json"]
