"""Language models found, adapted, saved and found again; what is missing is said, not made up."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from prismrec.base.errors import InputError, MissingExtraError
from prismrec.sequential.backbone import (
    Backbone,
    Origin,
    adapted,
    linear_layers,
    load_backbone,
    need_llm,
    save_merged,
    save_trained,
)
from prismrec.sequential.processor import Family
from prismrec.sequential.prompts import Picture, Prompt, Text
from prismrec.sequential.rows import answer_logits, collate, log_probs
from prismrec.sequential.settings import Adapter

pytest.importorskip("transformers")
pytest.importorskip("peft")

KINDS = ("qwen2.5-vl", "qwen3-vl", "llava", "text")
TYPES = {"qwen2.5-vl": "qwen2_5_vl", "qwen3-vl": "qwen3_vl", "llava": "llava", "text": "qwen2"}
SMALL = Adapter(rank=2, alpha=8.0, dropout=0.5)


def scores(backbone: Backbone) -> torch.Tensor:
    """Log-probabilities of three answers to a question with a picture."""
    from PIL import Image

    processor = backbone.processor
    pixels = {3: processor.pixels(Image.new("RGB", (50, 40), "red"))} if processor.sees else {}
    prompt = processor.prompt(Prompt((Text("Took "), Picture(3), Text(" what now?")), ""), pixels)
    answers = [processor.answer(text) for text in ("Yes", "No", '"Red River 12"')]
    backbone.model.eval()
    with torch.inference_mode():
        rows = collate([prompt] * 3, answers, pixels, processor.pad)
        return log_probs(*answer_logits(backbone.model, rows))[0]


def trained(backbone: Backbone, seed: int) -> Backbone:
    """Move all that can be trained, as training would."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in backbone.model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=random) * 0.3)
    return backbone


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def without_tensor(file: Path, part: str) -> str:
    """Take the first tensor whose name holds `part` out of a file."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    name = next(n for n in sorted(tensors) if part in n)
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    return name


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_is_loaded(tiny, kind):
    backbone = load_backbone(Origin(str(tiny(kind))))
    assert backbone.base.config.model_type == TYPES[kind]
    assert backbone.base is backbone.model
    assert backbone.processor.sees is (kind != "text")
    assert (backbone.processor.family is Family.TEXT) is (kind == "text")
    assert not backbone.model.training
    assert {p.dtype for p in backbone.model.parameters()} == {torch.float32}
    assert backbone.device == torch.device("cpu")
    assert backbone.size == sum(p.numel() for p in backbone.model.parameters())
    assert backbone.origin.asked == str(tiny(kind))
    assert backbone.origin.revision.startswith("files-")
    again = load_backbone(backbone.origin)
    torch.testing.assert_close(scores(again), scores(backbone), rtol=0, atol=0)


def test_bf16_is_asked_for(tiny):
    backbone = load_backbone(Origin(str(tiny("qwen2.5-vl"))), bf16=True)
    assert {p.dtype for p in backbone.model.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(
        scores(backbone), scores(load_backbone(Origin(str(tiny("qwen2.5-vl"))))), rtol=0.05, atol=0.1
    )


@pytest.mark.parametrize("kind", ["qwen2.5-vl", "qwen3-vl"])
@pytest.mark.parametrize(("most", "tokens"), [(784, 1), (56 * 28, 2), (84 * 84, 9), (140 * 140, 25)])
def test_max_pixels_is_the_largest_picture(tiny, kind, most, tokens):
    from PIL import Image

    backbone = load_backbone(Origin(str(tiny(kind))), max_pixels=most)
    large, small = Image.new("RGB", (400, 400)), Image.new("RGB", (28, 28))
    pixels = backbone.processor.pixels(large)
    assert int(pixels.grid.prod()) * 14 * 14 <= most
    assert pixels.tokens <= tokens
    if most != 56 * 28:
        assert pixels.tokens == tokens
    assert backbone.processor.pixels(small).tokens == 1


def test_llava_has_one_size_whatever_is_asked(tiny):
    from PIL import Image

    backbone = load_backbone(Origin(str(tiny("llava"))), max_pixels=784)
    assert backbone.processor.pixels(Image.new("RGB", (400, 400))).tokens == 16


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_go_on_the_language_model_alone(tiny, kind):
    backbone = adapted(load_backbone(Origin(str(tiny(kind)))), SMALL, seed=0)
    with_adapter = {
        name.removeprefix("base_model.model.").split(".lora_A")[0]
        for name, _ in backbone.model.named_parameters()
        if ".lora_A." in name
    }
    home = "model.layers" if kind == "text" else "model.language_model.layers"
    layers = [
        *(f"self_attn.{part}_proj" for part in "qkvo"),
        *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
    ]
    assert with_adapter == {f"{home}.{n}.{layer}" for n in range(2) for layer in layers}
    free = [name for name, p in backbone.model.named_parameters() if p.requires_grad]
    assert free
    assert all(".lora_A." in name or ".lora_B." in name for name in free)
    assert backbone.base is not backbone.model
    assert backbone.base.config.model_type == TYPES[kind]
    config = backbone.model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (2, 8.0, 0.5)


def test_no_adapter_writes_the_logits_even_where_their_layer_is_its_own():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=20,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=False,
        )
    )
    assert "lm_head" in dict(model.named_modules())
    names = linear_layers(model)
    assert len(names) == 7
    assert not any("lm_head" in name for name in names)


def test_a_model_without_layers_to_adapt_is_told():
    with pytest.raises(InputError, match="no linear layer"):
        linear_layers(torch.nn.Sequential(torch.nn.Embedding(3, 4)))


@pytest.mark.parametrize("kind", ["qwen3-vl", "text"])
def test_an_adapter_starts_as_nothing_and_from_its_seed(tiny, kind):
    plain = scores(load_backbone(Origin(str(tiny(kind)))))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (
        adapted(load_backbone(Origin(str(tiny(kind)))), SMALL, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.testing.assert_close(scores(first), plain, rtol=0, atol=0)
    weights = [
        torch.cat([p.flatten() for n, p in b.model.named_parameters() if "lora_A" in n])
        for b in (first, again, other)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_rank_0_trains_everything(tiny):
    backbone = load_backbone(Origin(str(tiny("qwen2.5-vl"))))
    assert adapted(backbone, Adapter(rank=0), seed=0) is backbone
    assert all(p.requires_grad for p in backbone.model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_adapter_is_found_again(tiny, kind, tmp_path):
    before = load_backbone(Origin(str(tiny(kind))))
    plain = scores(before)
    first = trained(adapted(before, SMALL, seed=0), 1)
    expected = scores(first)
    assert (expected - plain).abs().max() > 0.05
    origin = save_trained(first, tmp_path / "one")
    assert (origin.asked, origin.revision) == (before.origin.asked, before.origin.revision)
    assert origin.adapters == (str(tmp_path / "one" / "adapter"),)
    loaded = load_backbone(origin)
    # Merged: nothing is around it, and nothing is left of the adapter's parts.
    assert loaded.base is loaded.model
    assert loaded.size == before.size - sum(p.numel() for p in first.model.parameters() if p.requires_grad)
    torch.testing.assert_close(scores(loaded), expected, rtol=1e-5, atol=1e-5)
    assert loaded.origin == origin

    second = trained(adapted(loaded, SMALL, seed=1), 2)
    expected = scores(second)
    origin = save_trained(second, tmp_path / "two")
    assert [Path(a).parent.name for a in origin.adapters] == ["one", "two"]
    torch.testing.assert_close(scores(load_backbone(origin)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["qwen2.5-vl", "text"])
def test_a_whole_trained_model_is_found_again(tiny, kind, tmp_path):
    backbone = trained(adapted(load_backbone(Origin(str(tiny(kind)))), Adapter(rank=0), seed=0), 1)
    origin = save_trained(backbone, tmp_path)
    assert origin == Origin(str(tmp_path / "model"))
    torch.testing.assert_close(scores(load_backbone(origin)), scores(backbone), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["qwen2.5-vl", "llava", "text"])
def test_a_merged_model_needs_nothing_else(tiny, kind, tmp_path):
    base = copied(tiny(kind), tmp_path / "base")
    tuned = trained(adapted(load_backbone(Origin(str(base))), SMALL, seed=0), 3)
    with pytest.raises(InputError, match="in training"):
        save_merged(tuned, tmp_path / "no")
    assert not (tmp_path / "no").exists()
    with pytest.raises(InputError, match="not an empty folder"):
        save_merged(load_backbone(Origin(str(base))), base)
    origin = save_trained(tuned, tmp_path / "run")
    save_merged(load_backbone(origin), tmp_path / "merged")
    expected = scores(tuned)
    shutil.rmtree(base)
    shutil.rmtree(tmp_path / "run")
    alone = load_backbone(Origin(str(tmp_path / "merged")))
    torch.testing.assert_close(scores(alone), expected, rtol=1e-5, atol=1e-5)


def test_a_model_that_is_nowhere_is_told(tmp_path):
    for asked in (str(tmp_path / "nowhere"), "nobody/has-this-model"):
        with pytest.raises(InputError, match="The language model") as caught:
            load_backbone(Origin(asked))
        assert asked in str(caught.value)
        assert "config.json" in str(caught.value)


def test_a_folder_of_something_else_is_told(tmp_path):
    (tmp_path / "notes.txt").write_text("hm")
    with pytest.raises(InputError, match=r"no config\.json"):
        load_backbone(Origin(str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        load_backbone(Origin(str(tmp_path)))
    assert str(tmp_path) in str(caught.value)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_backbone(Origin(str(tmp_path)))


def test_a_family_that_is_not_known_is_told(tmp_path):
    from transformers import AutoConfig

    AutoConfig.for_model("llava_next").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="'llava_next' see pictures in a way"):
        load_backbone(Origin(str(tmp_path)))


@pytest.mark.parametrize(
    ("kind", "part"), [("qwen2.5-vl", "visual"), ("qwen3-vl", "layers.1"), ("text", "layers.0.mlp")]
)
def test_missing_weights_are_not_made_up(tiny, kind, part, tmp_path):
    folder = copied(tiny(kind), tmp_path / "model")
    without_tensor(folder / "model.safetensors", part)
    with pytest.raises(InputError, match="lack weights") as caught:
        load_backbone(Origin(str(folder)))
    assert part in str(caught.value)


def test_weights_of_another_size_are_told(tiny, tmp_path):
    folder = copied(tiny("text"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    with pytest.raises(InputError, match="cannot be loaded"):
        load_backbone(Origin(str(folder)))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "preprocessor_config.json"])
def test_a_file_that_is_missing_or_cut_short_is_told(tiny, name, tmp_path):
    folder = copied(tiny("qwen2.5-vl"), tmp_path / "model")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="model"):
        load_backbone(Origin(str(folder)))
    (folder / name).unlink()
    with pytest.raises(InputError, match="model"):
        load_backbone(Origin(str(folder)))


def test_a_folder_that_has_changed_since_is_told(tiny, tmp_path):
    folder = copied(tiny("text"), tmp_path / "model")
    origin = load_backbone(Origin(str(folder))).origin
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    with pytest.raises(InputError, match="not the one that is asked for"):
        load_backbone(origin)


def test_an_adapter_that_is_missing_or_damaged_is_told(tiny, tmp_path):
    tuned = trained(adapted(load_backbone(Origin(str(tiny("text")))), SMALL, seed=0), 1)
    origin = save_trained(tuned, tmp_path)
    folder = Path(origin.adapters[0])
    weights = (folder / "adapter_model.safetensors").read_bytes()

    name = without_tensor(folder / "adapter_model.safetensors", "lora_B")
    with pytest.raises(InputError, match="missing adapter keys"):
        load_backbone(origin)
    assert name
    (folder / "adapter_model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match="cannot be loaded"):
        load_backbone(origin)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be loaded"):
        load_backbone(origin)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="is gone") as caught:
        load_backbone(origin)
    assert str(folder) in str(caught.value)


def test_4_bits_say_what_they_need(tiny, monkeypatch):
    # As if it were not installed.
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match="'bitsandbytes', which is not installed") as caught:
        load_backbone(Origin(str(tiny("text"))), four_bit=True)
    assert "four_bit" in str(caught.value)


def test_a_package_that_is_missing_names_its_extra():
    with pytest.raises(MissingExtraError, match=r"'some/model' needs.*'no_such_package'") as caught:
        need_llm("no_such_package", "some/model")
    assert "prismrec[llm]" in str(caught.value)
    assert need_llm("json", "some/model") is json
