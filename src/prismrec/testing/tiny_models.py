"""Tiny language models with eyes, made in code: to test a pipeline without a download, in seconds.

Their tokenizer is a byte-level BPE learned from the texts that are given, so any title can be written.
Everything is saved as a folder that `transformers` loads like any other.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from prismrec.base.errors import InputError
from prismrec.base.files import storage_errors
from prismrec.features.pretrained_source import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Kind = Literal["qwen2.5-vl", "qwen3-vl", "llava", "text"]

_PAD, _START, _END, _SEEN_START, _SEEN_END, _SEEN, _VIDEO, _LLAVA = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<image>",
)
_SPECIAL = (_PAD, _START, _END, _SEEN_START, _SEEN_END, _SEEN, _VIDEO, _LLAVA)

_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_model(
    folder: Path,
    kind: Kind,
    texts: Sequence[str],
    *,
    seed: int = 0,
    dim: int = 64,
    layers: int = 2,
    vocabulary: int = 400,
    context: int = 2048,
    picture: int = 56,
) -> Path:
    """Make a model with random weights, its tokenizer and its picture processor, and save them.

    Parameters
    ----------
    folder
        Where to save; new or empty.
    kind
        Whose architecture: ``"qwen2.5-vl"``, ``"qwen3-vl"``, ``"llava"``; ``"text"`` sees no pictures.
    texts
        What the tokenizer learns its pieces from.
    seed
        Of the weights.
    dim
        Width of the language model, a multiple of 32.
    layers
        Blocks of the language model.
    vocabulary
        Most pieces of the tokenizer; 264 are bytes and markers.
    context
        Most tokens of a prompt with its answer.
    picture
        Side in pixels of a square of the area that a picture is shrunk to; a multiple of 28.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If a size does not fit, or the folder holds something.
    """
    if dim % 32 or picture % 28:
        raise InputError(
            f"dim={dim}, picture={picture}: sizes do not fit.", "dim is a multiple of 32, picture of 28."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: this is not an empty folder.", "Choose a new one.")
    tokenizer = _tokenizer(texts, vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, eyes = _make(kind, tokenizer, dim, layers, context, picture)
    with storage_errors(folder), quiet():
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if eyes is not None:
            eyes.save_pretrained(folder)
    return folder


def _tokenizer(texts: Sequence[str], vocabulary: int) -> "PreTrainedTokenizerBase":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces.train_from_iterator(_lines(texts), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, pad_token=_PAD, eos_token=_END)
    tokenizer.chat_template = _CHAT
    return tokenizer


def _lines(texts: Sequence[str]) -> Iterator[str]:
    yield from texts
    yield "system user assistant Yes No"


def _make(
    kind: Kind, tokenizer: Any, dim: int, layers: int, context: int, picture: int
) -> "tuple[PreTrainedModel, Any]":
    shared = {
        "vocab_size": len(tokenizer),
        "hidden_size": dim,
        "intermediate_size": 2 * dim,
        "num_hidden_layers": layers,
        "num_attention_heads": dim // 16,
        "num_key_value_heads": dim // 32,
        "max_position_embeddings": context,
        "pad_token_id": tokenizer.convert_tokens_to_ids(_PAD),
        "eos_token_id": tokenizer.convert_tokens_to_ids(_END),
        "bos_token_id": None,
        "tie_word_embeddings": True,
    }
    if kind == "text":
        from transformers import Qwen2Config, Qwen2ForCausalLM

        return Qwen2ForCausalLM(Qwen2Config(**shared)), None
    if kind == "llava":
        return _llava(shared, tokenizer, picture)
    return _qwen(kind, shared, tokenizer, picture)


def _qwen(kind: Kind, shared: dict[str, Any], tokenizer: Any, picture: int) -> "tuple[PreTrainedModel, Any]":
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
    )
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    # Three parts of half a head, for time, height and width, as its rotary positions want them.
    rotary = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0}
    text = {**shared, "rope_parameters": rotary}
    eyes = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": shared["hidden_size"],
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_channels": 3,
    }
    marks = {
        "image_token_id": tokenizer.convert_tokens_to_ids(_SEEN),
        "video_token_id": tokenizer.convert_tokens_to_ids(_VIDEO),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids(_SEEN_START),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids(_SEEN_END),
        "tie_word_embeddings": True,
    }
    pixels = {"shortest_edge": 28 * 28, "longest_edge": picture * picture}
    processor = Qwen2VLImageProcessorPil(
        patch_size=14, merge_size=2, temporal_patch_size=2, min_pixels=28 * 28, max_pixels=picture * picture
    )
    processor.size = pixels
    if kind == "qwen2.5-vl":
        seen = {**eyes, "window_size": 112, "fullatt_block_indexes": [1]}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=seen, **marks)
        return Qwen2_5_VLForConditionalGeneration(config), processor
    seen = {**eyes, "deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    text = {**text, "head_dim": 16}
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=text, vision_config=seen, **marks)
    ), processor


def _llava(shared: dict[str, Any], tokenizer: Any, picture: int) -> "tuple[PreTrainedModel, Any]":
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    eyes = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=picture,
        patch_size=14,
        projection_dim=32,
    )
    config = LlavaConfig(
        text_config=LlamaConfig(**shared),
        vision_config=eyes,
        image_token_index=tokenizer.convert_tokens_to_ids(_LLAVA),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": picture}, crop_size={"height": picture, "width": picture}
    )
    return LlavaForConditionalGeneration(config), processor
