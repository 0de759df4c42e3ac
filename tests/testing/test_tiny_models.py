"""Tiny models: of their family, saved whole, the same for the same seed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prismrec.base.errors import InputError
from prismrec.testing.tiny_models import tiny_model

pytest.importorskip("transformers")

KINDS = ("qwen2.5-vl", "qwen3-vl", "llava", "text")
TYPES = {"qwen2.5-vl": "qwen2_5_vl", "qwen3-vl": "qwen3_vl", "llava": "llava", "text": "qwen2"}
TEXTS = ["Red River", "Blue Night", "The king of the sea"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("made")
    for kind in KINDS:
        tiny_model(base / kind, kind, TEXTS)
    return base


@pytest.fixture(scope="module")
def tokenizer(home):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(home / "text", local_files_only=True)


def auto(folder: Path, kind: str):
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    family = AutoModelForCausalLM if kind == "text" else AutoModelForImageTextToText
    return family.from_pretrained(folder, local_files_only=True, output_loading_info=True)


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_loads_every_weight_of_it(home, kind):
    model, told = auto(home / kind, kind)
    assert model.config.model_type == TYPES[kind]
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert sum(p.numel() for p in model.parameters()) < 500_000
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[5, 70, 80]])).logits
    assert logits.isfinite().all()
    # The last token is read: the logits are no constant.
    assert logits[0].std(dim=0).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_makes_the_weights_and_nothing_else_does(home, kind, tmp_path):
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    tiny_model(tmp_path / "again", kind, TEXTS)
    tiny_model(tmp_path / "other", kind, TEXTS, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    first, again, other = (
        (folder / "model.safetensors").read_bytes()
        for folder in (home / kind, tmp_path / "again", tmp_path / "other")
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_asked_for(kind, tmp_path):
    tiny_model(tmp_path, kind, TEXTS, dim=32, layers=3, vocabulary=300, context=128)
    config = json.loads((tmp_path / "config.json").read_text())
    text = config.get("text_config", config)
    assert (text["hidden_size"], text["num_hidden_layers"], text["max_position_embeddings"]) == (32, 3, 128)
    assert 264 <= text["vocab_size"] <= 300
    assert auto(tmp_path, kind)[0].get_input_embeddings().weight.shape == (text["vocab_size"], 32)


@settings(max_examples=60)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_is_written_and_read_back(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_markers_are_one_token_and_learnt_words_few(tokenizer):
    for marker in ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<image>"):
        assert len(tokenizer(marker, add_special_tokens=False).input_ids) == 1
    assert len(tokenizer("Red River", add_special_tokens=False).input_ids) < len("Red River") / 2
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")


def test_the_chat_takes_strings_and_parts(tokenizer):
    said = [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Yes"}]
    parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in said]
    written = tokenizer.apply_chat_template(said, tokenize=False)
    assert written == "<|im_start|>user\nHm?<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"
    assert tokenizer.apply_chat_template(parts, tokenize=False) == written
    asked = tokenizer.apply_chat_template(said[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "<|im_start|>user\nHm?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("kind", ["qwen2.5-vl", "qwen3-vl"])
def test_large_pictures_are_shrunk(home, kind, tmp_path):
    from transformers import AutoImageProcessor

    picture = Image.fromarray(np.zeros((200, 400, 3), dtype=np.uint8))
    tiny_model(tmp_path, kind, TEXTS, picture=84)
    for folder, side in ((home / kind, 56), (tmp_path, 84)):
        eyes = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        grid = eyes(images=[picture], return_tensors="pt")["image_grid_thw"]
        # Patches of 14 pixels; all of the area is used that can be.
        assert side * side / 2 <= int(grid.prod()) * 14 * 14 <= side * side
        assert grid[0, 2] > grid[0, 1]


def test_llava_sees_a_square(home, tmp_path):
    from transformers import AutoImageProcessor

    tiny_model(tmp_path, "llava", TEXTS, picture=28)
    eyes = AutoImageProcessor.from_pretrained(tmp_path, backend="pil", local_files_only=True)
    picture = Image.fromarray(np.zeros((200, 400, 3), dtype=np.uint8))
    assert eyes(images=[picture], return_tensors="pt")["pixel_values"].shape == (1, 3, 28, 28)


def test_a_reader_of_text_has_no_eyes(home):
    assert not (home / "text" / "preprocessor_config.json").exists()
    assert "vision_config" not in json.loads((home / "text" / "config.json").read_text())


@pytest.mark.parametrize(("dim", "picture"), [(48, 56), (64, 50), (1, 28)])
def test_sizes_that_do_not_fit_are_named(dim, picture, tmp_path):
    with pytest.raises(InputError, match=f"dim={dim}, picture={picture}"):
        tiny_model(tmp_path / "no", "qwen2.5-vl", TEXTS, dim=dim, picture=picture)
    assert not (tmp_path / "no").exists()


def test_what_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "file").write_text("mine")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="not an empty folder"):
            tiny_model(taken, "text", TEXTS)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
