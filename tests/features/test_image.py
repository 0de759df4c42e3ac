import io

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageDraw

from prismrec.features.image import DescriptorEncoder, describe


def encoded(image: Image.Image, form: str = "PNG", **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **settings)
    return buffer.getvalue()


def drawn(shape: str, colour: str, ground: str = "white", size: tuple[int, int] = (96, 96)) -> Image.Image:
    picture = Image.new("RGB", size, ground)
    pen = ImageDraw.Draw(picture)
    box = [size[0] * 0.2, size[1] * 0.2, size[0] * 0.8, size[1] * 0.8]
    pen.ellipse(box, fill=colour) if shape == "disc" else pen.rectangle(box, fill=colour)
    return picture


def cosine(one: Image.Image, other: Image.Image) -> float:
    a, b = describe(one), describe(other)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_shape_of_the_answer():
    encoder = DescriptorEncoder()
    vectors, problems = encoder.encode([encoded(drawn("disc", "red"))] * 2)
    assert vectors.shape == (2, encoder.dim)
    assert vectors.dtype == np.float32
    assert problems == [None, None]
    assert 400 <= encoder.dim <= 600
    assert not encoder.needs_fit


def test_no_pictures():
    vectors, problems = DescriptorEncoder().encode([])
    assert vectors.shape == (0, DescriptorEncoder().dim)
    assert problems == []


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("RGB", (1, 1), "black"),
        Image.new("RGB", (1, 1), "white"),
        Image.new("RGB", (300, 200), "gray"),
        Image.new("RGB", (5_000, 1), "red"),
        Image.new("RGBA", (9, 9), (0, 0, 0, 0)),
        Image.new("I;16", (9, 9), 40_000),
    ],
)
def test_plain_and_tiny_pictures_have_finite_vectors(picture):
    vectors, problems = DescriptorEncoder().encode([encoded(picture)])
    assert problems == [None]
    assert np.isfinite(vectors).all()


def test_what_cannot_be_decoded_is_zero_and_named_and_disturbs_nobody():
    good = encoded(drawn("disc", "red"))
    vectors, problems = DescriptorEncoder().encode([b"", good, good[:100], b"fake"])
    assert [problem is None for problem in problems] == [False, True, False, False]
    assert vectors.any(axis=1).tolist() == [False, True, False, False]


def test_a_vector_does_not_depend_on_its_batch_to_the_last_bit():
    rng = np.random.default_rng(0)
    contents = [
        encoded(Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)))
        for h, w in [(1, 1), (40, 70), (112, 160)]
    ]
    encoder = DescriptorEncoder()
    together, _ = encoder.encode(contents)
    for row, content in enumerate(contents):
        assert np.array_equal(encoder.encode([content])[0][0], together[row])


def test_colour_counts():
    red = drawn("disc", "red")
    assert cosine(red, drawn("disc", "firebrick")) > cosine(red, drawn("disc", "royalblue"))
    assert cosine(red, drawn("disc", "red", size=(70, 70))) > cosine(
        red, drawn("disc", "red", ground="black")
    )


def test_reds_on_both_sides_of_the_hue_circle_are_one_colour():
    one, other = (describe(Image.new("RGB", (9, 9), colour)) for colour in [(255, 0, 5), (255, 5, 0)])
    assert one[:56].argmax() == other[:56].argmax()


def test_shape_counts():
    disc = drawn("disc", "red")
    assert cosine(disc, drawn("disc", "red", size=(128, 128))) > 0.98
    assert cosine(disc, drawn("square", "red")) < cosine(disc, drawn("disc", "red", size=(128, 128))) - 0.02


def test_layout_counts():
    left, right = Image.new("RGB", (64, 64), "white"), Image.new("RGB", (64, 64), "white")
    left.paste("navy", (0, 0, 32, 64))
    right.paste("navy", (32, 0, 64, 64))
    assert cosine(left, right) < 0.9


def test_a_coding_with_little_loss_changes_little():
    picture = drawn("disc", "navy")
    again = Image.open(io.BytesIO(encoded(picture, "JPEG", quality=90))).convert("RGB")
    assert cosine(picture, again) > 0.95


def test_no_block_drowns_the_others():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for picture in (noise, drawn("disc", "red")):
        vector = describe(picture)
        sizes = np.cumsum([56, 54, 288, 16, 10, 96])
        blocks = np.split(vector, sizes[:-1])
        assert sizes[-1] == len(vector)
        for block in blocks:
            assert 0.5 < np.linalg.norm(block) <= 1.0 + 1e-6


def test_grid_cells_hold_mean_and_deviation():
    picture = Image.new("RGB", (64, 64), "black")
    picture.paste("white", (0, 0, 21, 21))  # the upper left cell of the grid
    grid = describe(picture)[56 : 56 + 54]
    lightness = grid[:27].reshape(9, 3)[:, 0]
    assert lightness[0] > 0.9
    assert np.abs(lightness[1:]).max() < 1e-6
    assert np.abs(grid[27:]).max() < 1e-5


def test_saving_leaves_json_only(tmp_path):
    DescriptorEncoder().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.json"]


def edges_of(vector: np.ndarray) -> np.ndarray:
    """Histogram of edge directions: 16, from 0 (lighter to the right) over a quarter (lighter below)."""
    return vector[398:414]


@pytest.mark.parametrize(
    ("box", "direction"),
    [((32, 0, 64, 64), 0), ((0, 32, 64, 64), 4), ((0, 0, 32, 64), 8), ((0, 0, 64, 32), 12)],
)
def test_edge_directions(box, direction):
    picture = Image.new("RGB", (64, 64), "black")
    picture.paste("white", box)
    edges = edges_of(describe(picture))
    assert edges[direction] > 0.9
    assert np.delete(edges, direction).max() < 0.01


def test_gradients_by_hand():
    # White from column 24 on: the edge lies in the second column of cells, which the first two blocks share.
    picture = Image.new("RGB", (64, 64), "black")
    picture.paste("white", (24, 0, 64, 64))
    blocks = describe(picture)[110:398].reshape(3, 3, 2, 2, 8)
    filled = blocks > 1e-6
    assert filled[:, 0, :, 1, 0].all()
    assert filled[:, 1, :, 0, 0].all()
    assert filled.sum() == 3 * 2 + 3 * 2


@pytest.mark.movielens
def test_real_posters(movielens):
    items = pl.scan_parquet(movielens("movielens-small") / "items.parquet")
    posters = items.select("image").drop_nulls().gather_every(200).collect()["image"].to_list()
    assert len(posters) > 36
    vectors, problems = DescriptorEncoder().encode(posters)
    assert problems == [None] * len(posters)
    assert np.isfinite(vectors).all()
    # No two of them are alike, and none is far from all others: the vectors use their room.
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
    assert cosines.max() < 0.999
    assert cosines.std() > 0.03
