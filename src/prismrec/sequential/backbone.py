"""Language models: found, loaded, adapted, merged, saved."""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from prismrec.base.errors import InputError, PrismError
from prismrec.base.files import storage_errors
from prismrec.features.pretrained_source import find_source, first_line, need, quiet
from prismrec.sequential.processor import Family, PromptProcessor, family_of
from prismrec.sequential.settings import Adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODEL, ADAPTER = "model", "adapter"


@dataclass(frozen=True)
class Origin:
    """Where a language model comes from.

    Parameters
    ----------
    asked
        Hub id or folder.
    revision
        Commit, or digest of the folder's files; None: not fixed yet.
    adapters
        Folders of adapters, merged one after the other.
    """

    asked: str
    revision: str | None = None
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Backbone:
    """A language model with what writes its prompts.

    Parameters
    ----------
    model
        Plain, or with an adapter in training around it.
    processor
        Prompts to tokens, pictures to pixels.
    origin
        Where it comes from.
    """

    model: Any
    processor: PromptProcessor
    origin: Origin

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(iter(self.model.parameters())).device
        return device

    @property
    def base(self) -> "PreTrainedModel":
        """The model without adapters around it."""
        base: PreTrainedModel = (
            self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        )
        return base

    @property
    def size(self) -> int:
        """Number of parameters, adapters included."""
        return sum(p.numel() for p in self.model.parameters())


def load_backbone(
    origin: Origin,
    *,
    device: str = "cpu",
    bf16: bool = False,
    four_bit: bool = False,
    max_pixels: int | None = None,
) -> Backbone:
    """Load a model, its tokenizer and its picture processor; merge its adapters into it.

    Parameters
    ----------
    origin
        Where it comes from.
    device
        Where to put it.
    bf16
        Weights in bfloat16; otherwise float32.
    four_bit
        Weights in 4 bits, by bitsandbytes; adapters cannot be merged into them.
    max_pixels
        Larger pictures are shrunk to this, where the family takes pictures of any size.

    Raises
    ------
    InputError
        If the model is not found, is of an unknown kind, or its files are damaged.
    MissingExtraError
        If the extra ``llm`` is not installed.
    """
    need_llm("transformers", origin.asked)
    try:
        source = find_source(origin.asked, origin.revision)
    except InputError as error:
        problem = error.problem.replace("The encoder", "The language model", 1)
        raise InputError(
            problem, "Name a hub id that can be reached, or a local folder with config.json and weights."
        ) from error
    try:
        model, processor = _load(source.folder, device, bf16, four_bit, max_pixels)
        for folder in origin.adapters:
            model = _merged(model, folder)
    except (PrismError, MemoryError):
        raise
    # Loading somebody's files runs through three libraries; each raises what it likes.
    except Exception as error:
        raise InputError(
            f"The language model {origin.asked!r} cannot be loaded ({first_line(error)}).",
            "Name a hub id or a local folder that transformers can load.",
        ) from error
    return Backbone(model, processor, Origin(source.asked, source.revision, origin.adapters))


def adapted(backbone: Backbone, settings: Adapter, *, seed: int) -> Backbone:
    """Put an adapter around a model, or make all its weights trainable where the rank is 0.

    Parameters
    ----------
    backbone
        A plain model.
    settings
        What is trained. Adapters are put on every linear layer of the language model: not on its last one,
        which writes the logits, nor on the eyes.
    seed
        Of the adapter's first weights.
    """
    if settings.rank == 0:
        return backbone
    peft = need_llm("peft", backbone.origin.asked)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=linear_layers(backbone.base),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), _without_hints():
        torch.manual_seed(seed)
        model = peft.get_peft_model(backbone.base, config)
    return Backbone(model, backbone.processor, backbone.origin)


def linear_layers(model: "PreTrainedModel") -> list[str]:
    """Names of the linear layers of the language model, eyes and logits left out.

    Raises
    ------
    InputError
        If there is none.
    """
    eyes = ("visual.", "vision_tower.", "multi_modal_projector.", "vision_model.")
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name and not any(e in name for e in eyes)
    ]
    if not names:
        raise InputError("The language model has no linear layer for an adapter.", "Use adapter.rank=0.")
    return names


def save_trained(backbone: Backbone, folder: Path) -> Origin:
    """Save what was trained: the adapter alone, or the whole model; return where it comes from now."""
    with storage_errors(folder), quiet():
        if hasattr(backbone.model, "get_base_model"):
            backbone.model.save_pretrained(folder / ADAPTER)
            before = backbone.origin
            return Origin(before.asked, before.revision, (*before.adapters, str(folder / ADAPTER)))
        backbone.model.save_pretrained(folder / MODEL)
        backbone.processor.save(folder / MODEL)
    return Origin(str(folder / MODEL))


def save_merged(backbone: Backbone, folder: Path) -> None:
    """Save model, tokenizer and picture processor as a folder that stands alone.

    Raises
    ------
    InputError
        If an adapter is in training, or the folder is not empty.
    """
    if hasattr(backbone.model, "get_base_model"):
        raise InputError("An adapter in training is not merged.", "Load the run, then save it.")
    require_empty(folder)
    with storage_errors(folder), quiet():
        backbone.model.save_pretrained(folder)
        backbone.processor.save(folder)


def require_empty(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises
    ------
    InputError
        If it does, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: this is not an empty folder.", "Choose a new or empty folder.")


def need_llm(package: str, asked: str) -> Any:
    """Import a package of the extra ``llm``.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    return need(package, f"The language model {asked!r}", "llm")


def _load(
    folder: Path, device: str, bf16: bool, four_bit: bool, max_pixels: int | None
) -> tuple[Any, PromptProcessor]:
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoTokenizer,
    )

    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(folder, **local)
    family = family_of(config)
    kind = AutoModelForCausalLM if family is Family.TEXT else AutoModelForImageTextToText
    weights: dict[str, Any] = {"dtype": torch.bfloat16 if bf16 else torch.float32}
    if four_bit:
        weights["quantization_config"] = _four_bits()
        weights["device_map"] = {"": device}
    with quiet():
        model, info = kind.from_pretrained(folder, output_loading_info=True, **weights, **local)
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
        eyes = None
        if family is not Family.TEXT:
            # This one decodes with Pillow; the other backend wants a package of its own.
            eyes = AutoImageProcessor.from_pretrained(folder, backend="pil", **local)
    lost = sorted(map(str, info["missing_keys"]))
    if lost:
        raise InputError(
            f"{folder}: the files lack weights of the model, e.g. {', '.join(lost[:3])}.",
            "They would be random. Download or copy the folder again.",
        )
    if eyes is not None and max_pixels is not None and family is Family.QWEN:
        eyes.size = {"shortest_edge": min(28 * 28, max_pixels), "longest_edge": max_pixels}
    if not four_bit:
        model = model.to(device)
    return model.eval(), PromptProcessor(tokenizer, eyes, config)


def _four_bits() -> Any:
    from transformers import BitsAndBytesConfig

    try:
        importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise InputError(
            "Weights in 4 bits need the package 'bitsandbytes', which is not installed.",
            "Install it, or leave four_bit off.",
        ) from error
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )


@contextmanager
def _without_hints() -> Iterator[None]:
    """Keep away what peft's use of transformers' older names makes it say; nobody can act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        yield


def _merged(model: Any, folder: str) -> Any:
    peft = need_llm("peft", folder)
    if not (Path(folder) / "adapter_config.json").is_file():
        raise InputError(
            f"{folder}: the adapter that the run was trained on is gone.",
            "Put it back, or train that step again; `sequential merge` makes a run that needs no other.",
        )
    with _without_hints():
        # It would go on with random weights.
        warnings.filterwarnings("error", message="Found missing adapter keys")
        return peft.PeftModel.from_pretrained(model, folder).merge_and_unload()
