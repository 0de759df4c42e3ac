"""Pretrained encoders, with tiny models of random weights. All tests that import transformers stand here."""

import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file

from prismrec.base.errors import InputError, MissingExtraError
from prismrec.features.open import load_encoder, make_encoder
from prismrec.features.pretrained_source import find_source

WORDS = ["<pad>", "<unk>", "<s>", "</s>", "a", "and", "blue", "chair", "lamp", "long"]
WORDS += ["red", "short", "table", "with"]
TEXTS = [
    "a red chair",
    "lamp",
    "a blue table and a long lamp with a short lamp and a red chair",
    "nothing known",
]
TINY = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
TEXT = {**TINY, **SPECIAL, "vocab_size": len(WORDS), "max_position_embeddings": 12}
VISION = {**TINY, "image_size": 32, "patch_size": 8}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def encoded_picture(width: int, height: int, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def encoded_sound(samples: int, rate: int = 16_000, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(seed).normal(0, 0.1, samples), rate, format="WAV")
    return buffer.getvalue()


PICTURES = [encoded_picture(w, h, w + h) for w, h in [(1, 1), (3, 3), (40, 60), (3, 50), (2_000, 2)]]
SOUNDS = [
    encoded_sound(n, r, n) for n, r in [(16_000, 16_000), (5, 16_000), (30_000, 22_050), (20_000, 8_000)]
]
CONTENTS = {"text": TEXTS, "image": PICTURES, "audio": SOUNDS}


def save_tokenizer(folder: Path, **settings) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: code for code, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **names, **settings).save_pretrained(folder)


def save_processor(folder: Path, name: str, **settings) -> None:
    content = {"image_processor_type": name, "do_resize": True, "do_normalize": True, **settings}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))


def save_clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=10)).save_pretrained(folder)
    save_tokenizer(folder, model_max_length=12)
    crop = {"height": 32, "width": 32}
    save_processor(folder, "CLIPImageProcessor", size={"shortest_edge": 32}, crop_size=crop)


def save_siglip(folder: Path) -> None:
    from transformers import SiglipConfig, SiglipModel

    SiglipModel(SiglipConfig(text_config=TEXT, vision_config=VISION)).save_pretrained(folder)
    save_tokenizer(folder, model_max_length=12)
    save_processor(folder, "SiglipImageProcessor", size={"height": 32, "width": 32})


def save_bert(folder: Path) -> None:
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(**TEXT)).save_pretrained(folder)
    save_tokenizer(folder)


def save_sentences(folder: Path) -> None:
    save_bert(folder)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": idx, "name": str(idx), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for idx, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12}))
    (folder / "2_Normalize").mkdir()
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def save_vit(folder: Path) -> None:
    from transformers import ViTConfig, ViTModel

    # Like a checkpoint that was trained to classify: the model class has a pooler, the files do not.
    ViTModel(ViTConfig(**VISION), add_pooling_layer=False).save_pretrained(folder)
    save_processor(folder, "ViTImageProcessor", size={"height": 32, "width": 32})


def save_wav2vec2(folder: Path) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    convolutions = {"conv_dim": (8, 8), "conv_stride": (10, 4), "conv_kernel": (10, 8)}
    positions = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    config = Wav2Vec2Config(vocab_size=8, num_feat_extract_layers=2, **convolutions, **positions, **TINY)
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)


def save_clap(folder: Path, fusion: bool = False) -> None:
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    audio = {
        **{"spec_size": 64, "num_mel_bins": 16, "window_size": 4, "patch_size": 4, "patch_stride": [4, 4]},
        **{"patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [1, 2], "hidden_size": 16},
        **{"num_hidden_layers": 2, "enable_fusion": fusion, "num_classes": 4},
    }
    ClapModel(ClapConfig(text_config=TEXT, audio_config=audio, projection_dim=10)).save_pretrained(folder)
    save_tokenizer(folder)
    ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=8_000,
        hop_length=160,
        max_length_s=1,
        fft_window_size=256,
        frequency_max=4_000,
        truncation="fusion" if fusion else "rand_trunc",
    ).save_pretrained(folder)


def save_clap_fusion(folder: Path) -> None:
    save_clap(folder, fusion=True)


MAKERS = {
    "clip": save_clip,
    "siglip": save_siglip,
    "bert": save_bert,
    "sentences": save_sentences,
    "vit": save_vit,
    "wav2vec2": save_wav2vec2,
    "clap": save_clap,
    "clap_fusion": save_clap_fusion,
}
CASES = [
    ("clip", "image", 10, "get_image_features"),
    ("clip", "text", 10, "get_text_features"),
    ("siglip", "image", 16, "get_image_features"),
    ("siglip", "text", 16, "get_text_features"),
    ("bert", "text", 16, "masked mean"),
    ("sentences", "text", 16, "sentence-transformers"),
    ("vit", "image", 16, "mean"),
    ("wav2vec2", "audio", 16, "mean over time"),
    ("clap", "audio", 10, "get_audio_features"),
    ("clap", "text", 10, "get_text_features"),
    ("clap_fusion", "audio", 10, "get_audio_features"),
]


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """Return a folder with one folder per tiny model."""
    home = tmp_path_factory.mktemp("models")
    for name, maker in MAKERS.items():
        torch.manual_seed(0)
        (home / name).mkdir()
        maker(home / name)
    return home


@pytest.mark.parametrize(("name", "kind", "dim", "pooling"), CASES)
def test_batches_do_not_change_a_vector(models, name, kind, dim, pooling):
    encoder = make_encoder(kind, str(models / name), batch_size=3)
    contents = CONTENTS[kind]
    together, problems = encoder.encode(contents)
    assert problems == [None] * len(contents)
    assert together.shape == (len(contents), dim)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    assert together.std(axis=0).max() > 1e-4
    alone = np.concatenate([encoder.encode([content])[0] for content in contents])
    assert alone == pytest.approx(together, abs=1e-5)
    backwards, _ = encoder.encode(contents[::-1])
    assert backwards[::-1] == pytest.approx(together, abs=1e-5)
    assert encoder.dim == dim
    assert encoder.spec()["pooling"] == pooling


@pytest.mark.parametrize(
    ("name", "kind", "bad"), [("clip", "image", b"fake"), ("wav2vec2", "audio", b""), ("bert", "text", " ")]
)
def test_what_cannot_be_decoded_is_zero_and_disturbs_nobody(models, name, kind, bad):
    encoder = make_encoder(kind, str(models / name))
    good = CONTENTS[kind][0]
    vectors, problems = encoder.encode([bad, good, bad])
    assert [problem is None for problem in problems] == [False, True, False]
    assert not vectors[[0, 2]].any()
    assert vectors[1] == pytest.approx(encoder.encode([good])[0][0], abs=1e-6)
    assert encoder.encode([bad])[0].shape == (1, encoder.dim)
    assert encoder.encode([])[0].shape == (0, encoder.dim)


def test_clip_pictures_as_by_hand(models):
    from transformers import CLIPModel

    # Scale the shorter side to 32, cut out the middle, normalise: the processor's settings, written out.
    picture = Image.open(io.BytesIO(PICTURES[2])).convert("RGB").resize((32, 48), Image.Resampling.BICUBIC)
    values = np.asarray(picture.crop((0, 8, 32, 40)), dtype=np.float32) / 255
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    pixels = torch.tensor(((values - mean) / std).transpose(2, 0, 1)[None], dtype=torch.float32)
    model = CLIPModel.from_pretrained(models / "clip").eval()
    with torch.inference_mode():
        expected = model.visual_projection(model.vision_model(pixels).pooler_output)[0].numpy()
    vectors, _ = make_encoder("image", str(models / "clip")).encode([PICTURES[2]])
    assert vectors[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["bert", "sentences"])
def test_mean_over_tokens_as_by_hand(models, name):
    from transformers import BertModel

    codes = [2, *(WORDS.index(word) for word in TEXTS[0].split()), 3]
    model = BertModel.from_pretrained(models / name).eval()
    with torch.inference_mode():
        expected = model(torch.tensor([codes])).last_hidden_state[0].mean(dim=0).numpy()
    if name == "sentences":
        expected = expected / np.linalg.norm(expected)
    vectors, _ = make_encoder("text", str(models / name)).encode(TEXTS)
    assert vectors[0] == pytest.approx(expected, abs=1e-5)


def test_siglip_texts_are_filled_up_without_a_mask(models):
    from transformers import SiglipModel

    codes = [2, *(WORDS.index(word) for word in TEXTS[0].split()), 3]
    model = SiglipModel.from_pretrained(models / "siglip").eval()
    with torch.inference_mode():
        expected = model.text_model(torch.tensor([codes + [0] * (12 - len(codes))])).pooler_output[0].numpy()
    vectors, _ = make_encoder("text", str(models / "siglip")).encode(TEXTS)
    assert vectors[0] == pytest.approx(expected, abs=1e-5)


def test_wav2vec2_as_by_hand(models):
    from transformers import Wav2Vec2Model

    samples, _ = soundfile.read(io.BytesIO(SOUNDS[0]), dtype="float32")
    normal = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    model = Wav2Vec2Model.from_pretrained(models / "wav2vec2").eval()
    with torch.inference_mode():
        expected = model(torch.tensor(normal)[None]).last_hidden_state[0].mean(dim=0).numpy()
    vectors, _ = make_encoder("audio", str(models / "wav2vec2")).encode(SOUNDS)
    assert vectors[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["clap", "clap_fusion"])
def test_clap_averages_windows_instead_of_drawing_one(models, name):
    # The tiny model hears one second at 8 kHz. 2.5 seconds: two windows; the rest is too short to count.
    samples = np.random.default_rng(1).normal(0, 0.1, 20_000)
    rng = np.random.default_rng(2)
    samples[8_000:16_000] = 0.5 * np.sin(np.arange(8_000) / 3) + rng.normal(0, 0.01, 8_000)
    contents = []
    for part in (samples, samples[:8_000], samples[8_000:16_000]):
        buffer = io.BytesIO()
        soundfile.write(buffer, part, 8_000, format="WAV", subtype="FLOAT")
        contents.append(buffer.getvalue())
    encoder = make_encoder("audio", str(models / name))
    whole, first, second = encoder.encode(contents)[0]
    assert np.abs(first - second).max() > 1e-3
    assert whole == pytest.approx((first + second) / 2, abs=1e-5)


def test_a_pooler_without_weights_is_not_used(models):
    # Its weights would be drawn anew at every loading.
    first = make_encoder("image", str(models / "vit")).encode(PICTURES)[0]
    torch.manual_seed(123)
    second = make_encoder("image", str(models / "vit")).encode(PICTURES)[0]
    assert np.array_equal(first, second)


def test_other_missing_weights_are_refused(models, tmp_path):
    folder = shutil.copytree(models / "bert", tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if "query.weight" in name)
    del weights[gone]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lack weights.*query"):
        make_encoder("text", str(folder))


@pytest.mark.parametrize(
    ("name", "kind"), [("vit", "text"), ("bert", "image"), ("bert", "audio"), ("clip", "audio")]
)
def test_a_model_of_another_kind_is_refused(models, name, kind):
    with pytest.raises(InputError, match=r"cannot be loaded[\s\S]*'default'") as caught:
        make_encoder(kind, str(models / name))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "config"])
def test_damaged_files_are_one_clear_error(models, tmp_path, damage):
    folder = shutil.copytree(models / "bert", tmp_path / "bert")
    weights = folder / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "empty":
        weights.unlink()
    else:
        (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot be"):
        make_encoder("text", str(folder))


def test_code_that_comes_with_a_model_is_never_run(models, tmp_path):
    folder = shutil.copytree(models / "bert", tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "strange"
    config["auto_map"] = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(InputError):
        make_encoder("text", str(folder))
    assert not (tmp_path / "ran").exists()


def test_bf16_is_close_and_tells_itself_apart(models):
    exact = make_encoder("text", str(models / "clip"))
    fast = make_encoder("text", str(models / "clip"), precision="bf16")
    a, b = exact.encode(TEXTS)[0], fast.encode(TEXTS)[0]
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).max() < 0.05 * np.abs(a).max()
    assert fast.spec() != exact.spec()


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"batch_size": 0}, "batch"), ({"precision": "fp8"}, "fp8"), ({"device": "nonsense"}, "nonsense")],
)
def test_impossible_settings_are_refused(models, settings, word):
    with pytest.raises(InputError, match=word):
        make_encoder("text", str(models / "bert"), **settings)


@pytest.mark.parametrize(("name", "kind"), [("clip", "image"), ("bert", "text"), ("wav2vec2", "audio")])
def test_saved_and_loaded_it_is_the_same(models, tmp_path, name, kind):
    encoder = make_encoder(kind, str(models / name), precision="bf16")
    encoder.save(tmp_path)
    again = load_encoder(tmp_path, batch_size=2)
    assert again.spec() == encoder.spec()
    assert json.loads(json.dumps(encoder.spec())) == encoder.spec()
    assert again.encode(CONTENTS[kind][:1])[0] == pytest.approx(
        encoder.encode(CONTENTS[kind][:1])[0], abs=1e-6
    )
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.json"]


def test_changed_or_missing_weights_are_noticed_at_loading(models, tmp_path):
    folder = shutil.copytree(models / "bert", tmp_path / "bert")
    make_encoder("text", str(folder)).save(tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 0.1}))
    with pytest.raises(InputError, match="not the one"):
        load_encoder(tmp_path / "saved")
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="no such folder"):
        load_encoder(tmp_path / "saved")


def test_a_folder_may_move(models, tmp_path):
    folder = shutil.copytree(models / "bert", tmp_path / "bert")
    assert make_encoder("text", str(folder)).spec() == make_encoder("text", str(models / "bert")).spec()


def test_loading_is_quiet_and_leaves_the_libraries_as_they_were(models, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    make_encoder("image", str(models / "vit")).encode(PICTURES[:1])
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_a_missing_extra_is_named(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"'sentence_transformers'[\s\S]*prismrec\[encoders\]"):
        make_encoder("text", str(models / "sentences"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in (str(models / "clip"), "openai/clip-vit-base-patch32"):
        with pytest.raises(MissingExtraError, match=r"'transformers'[\s\S]*prismrec\[encoders\]"):
            make_encoder("image", name)


def as_cached(folder: Path, cache: Path, name: str) -> Path:
    """Lay out a model as the hub's client would have left it."""
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    return shutil.copytree(folder, home / "snapshots" / COMMIT)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_offline_a_cached_model_is_used_and_its_commit_told(models, cache, tmp_path):
    as_cached(models / "bert", cache, "acme/tiny-bert")
    encoder = make_encoder("text", "acme/tiny-bert")
    assert (encoder.spec()["name"], encoder.spec()["revision"]) == ("acme/tiny-bert", COMMIT)
    encoder.save(tmp_path / "saved")
    assert load_encoder(tmp_path / "saved").spec() == encoder.spec()


def test_offline_an_unknown_model_is_refused_and_the_default_named(cache):
    with pytest.raises(InputError, match=r"'acme/none'[\s\S]*'default'[\s\S]*local folder"):
        make_encoder("text", "acme/none")


def test_an_impossible_name_is_refused(cache):
    with pytest.raises(InputError, match="neither a folder nor a possible id"):
        make_encoder("text", "no such id!")


def test_a_download_that_was_cut_short_is_not_used(models, cache):
    folder = as_cached(models / "bert", cache, "acme/tiny-bert")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    with pytest.raises(InputError, match="not in the local cache"):
        find_source("acme/tiny-bert")


def test_an_unreachable_hub_is_tried_once_and_briefly(models, cache, monkeypatch):
    tries = []

    def model_info(self, name, *, revision=None, timeout=None):
        tries.append((name, timeout))
        raise ConnectionError("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    with pytest.raises(InputError, match="cannot be reached"):
        find_source("acme/none")
    assert len(tries) == 1
    assert tries[0][1] <= 10
    as_cached(models / "bert", cache, "acme/tiny-bert")
    assert find_source("acme/tiny-bert").revision == COMMIT
    # A commit that is here is not asked for.
    assert find_source("acme/tiny-bert", COMMIT).revision == COMMIT
    assert len(tries) == 2


@pytest.mark.parametrize(
    ("files", "fetched"),
    [(["model.safetensors", "pytorch_model.bin"], "*.safetensors"), (["pytorch_model.bin"], "*.bin")],
)
def test_only_the_weights_that_are_needed_are_downloaded(models, cache, monkeypatch, files, fetched):
    asked = {}

    def snapshot_download(name, **settings):
        asked.update(settings)
        return str(as_cached(models / "bert", cache, name))

    siblings = [SimpleNamespace(rfilename=name) for name in files]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        huggingface_hub.HfApi, "model_info", lambda self, name, **_: SimpleNamespace(siblings=siblings)
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    source = find_source("acme/tiny-bert")
    assert source.revision == COMMIT
    assert [pattern for pattern in asked["allow_patterns"] if "bin" in pattern or "safe" in pattern] == [
        fetched
    ]
