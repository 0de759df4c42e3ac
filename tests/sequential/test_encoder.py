"""Vectors of items: the card's formula, worked out again."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from prismrec.data.media import MemoryMedia
from prismrec.sequential.encoder import item_vectors
from prismrec.sequential.examples import Task
from prismrec.sequential.template import Template
from prismrec.sequential.writer import Shelf, Writer

pytest.importorskip("transformers")

SEEING = ("qwen2.5-vl", "qwen3-vl", "llava")
BARE = ("i7", "i13", "i21", "i30")  # the picture of i13 cannot be read


def writer_of(backbone, shelf):
    return Writer(Task.NEXT, Template.default(), "film", "films", shelf, backbone.processor, 2048)


def norm(vector):
    length = np.linalg.norm(vector)
    return vector / length if length else vector


def looked_at(backbone, folder, content: bytes):
    """Mean of what the eyes give, with transformers' own processor and the parts of the model by hand."""
    from transformers import AutoImageProcessor

    eyes = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    made = eyes(images=[Image.open(io.BytesIO(content)).convert("RGB")], return_tensors="pt")
    core = backbone.base.model
    with torch.inference_mode():
        if "image_grid_thw" in made:
            seen = core.visual(made["pixel_values"], made["image_grid_thw"], return_dict=True).pooler_output
        else:
            patches = core.vision_tower(made["pixel_values"]).last_hidden_state[0, 1:]
            seen = core.multi_modal_projector(patches)
    return seen.double().mean(dim=0).numpy()


@pytest.mark.parametrize("kind", [*SEEING, "text"])
def test_vectors_are_those_of_the_formula(loaded, tiny, questions, kind):
    from transformers import AutoTokenizer

    backbone, shelf = loaded(kind), questions("next").shelf
    vectors, present = item_vectors(backbone, writer_of(backbone, shelf))
    assert vectors.dtype == np.float32
    assert present.dtype == np.bool_
    assert present.tolist() == [True] * 40
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)

    tokenizer = AutoTokenizer.from_pretrained(tiny(kind), local_files_only=True)
    table = backbone.base.get_input_embeddings().weight.detach().double().numpy()
    for code in (0, 3, 4, 7, 13, 20, 33, 39):
        ids = tokenizer(shelf.titles[code], add_special_tokens=False).input_ids
        words = norm(table[ids].mean(axis=0))
        picture = np.zeros_like(words)
        if kind != "text" and shelf.ids[code] not in BARE:
            picture = norm(looked_at(backbone, tiny(kind), shelf.pictures.read(shelf.ids[code])))
        np.testing.assert_allclose(vectors[code], norm(words + picture), atol=2e-6)


@pytest.mark.parametrize("kind", SEEING)
def test_a_picture_moves_its_item_and_no_other(loaded, questions, kind):
    backbone, shelf = loaded(kind), questions("next").shelf
    with_pictures, _ = item_vectors(backbone, writer_of(backbone, shelf))
    without, _ = item_vectors(backbone, writer_of(backbone, Shelf(shelf.ids, shelf.titles)))
    moved = np.abs(with_pictures - without).max(axis=1) > 1e-2
    assert [shelf.ids[n] for n in np.flatnonzero(~moved)] == list(BARE)
    swapped = {"i0": shelf.pictures.read("i1"), "i1": shelf.pictures.read("i1")}
    other, _ = item_vectors(
        backbone, writer_of(backbone, Shelf(shelf.ids, shelf.titles, MemoryMedia(swapped)))
    )
    np.testing.assert_allclose(other[1], with_pictures[1], atol=1e-6)
    assert np.abs(other[0] - with_pictures[0]).max() > 1e-4
    np.testing.assert_allclose(other[2:], without[2:], atol=1e-6)


@pytest.mark.parametrize("kind", ["qwen2.5-vl", "llava"])
def test_the_block_size_changes_nothing(loaded, questions, kind, monkeypatch):
    backbone, shelf = loaded(kind), questions("next").shelf
    whole, _ = item_vectors(backbone, writer_of(backbone, shelf))
    monkeypatch.setattr("prismrec.sequential.encoder._BATCH", 7)
    blocks, _ = item_vectors(backbone, writer_of(backbone, shelf))
    np.testing.assert_allclose(blocks, whole, atol=1e-6)


def test_unreadable_pictures_are_remarked(loaded, questions):
    backbone = loaded("qwen2.5-vl")
    writer = writer_of(backbone, questions("next").shelf)
    item_vectors(backbone, writer)
    assert writer.remarks.unreadable == {"i13"}
