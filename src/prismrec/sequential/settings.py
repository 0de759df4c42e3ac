"""How a language model is tuned: adapters, steps, and what a prompt may hold."""

import difflib
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from prismrec.base.errors import ConfigError
from prismrec.models.settings import Settings
from prismrec.recommender.recipe import laid_over


class Adapter(Settings):
    """Low-rank adapters (LoRA, arXiv 2106.09685) on all linear layers of the language model."""

    rank: int = Field(
        8, ge=0, le=1024, description="Rank; 0 trains all weights instead, the eyes' too, for small models."
    )
    alpha: float = Field(32.0, gt=0, description="The adapter's output is scaled by alpha / rank.")
    dropout: float = Field(0.05, ge=0, lt=1, description="Dropout before the adapter.")


class Tuning(Settings):
    """How a language model is trained.

    The defaults are those of the paper's released code (arXiv 2511.18740) for Qwen2.5-VL-3B.
    """

    adapter: Adapter = Field(Adapter(), description="What is trained.")
    learning_rate: float = Field(1e-4, gt=0, le=1.0, description="Largest step size of AdamW.")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="How it falls.")
    warmup: float = Field(0.0, ge=0, lt=1, description="Share of the steps in which it rises.")
    weight_decay: float = Field(0.0, ge=0, description="Of AdamW.")
    clip_norm: float = Field(1.0, gt=0, description="Longest gradient.")
    epochs: float = Field(5.0, gt=0, le=1000, description="Passes over the training examples.")
    batch_size: int = Field(2, ge=1, description="Examples of a pass, on each device.")
    accumulation: int = Field(8, ge=1, description="Passes whose gradients are added to one step.")
    whole_batches: bool = Field(False, description="Drop the last examples of an epoch that fill no batch.")
    prompt_loss: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Supervision: weight of foretelling the prompt's own words. Above 0 a model that starts "
        "from random weights also learns titles and histories.",
    )
    max_tokens: int = Field(
        4096, ge=16, description="Longest prompt with its answer; a longer history is cut at its beginning."
    )
    max_pixels: int = Field(
        262_144, ge=784, description="Pictures with more pixels are shrunk (Qwen); LLaVA has one size."
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Of the products.")
    four_bit: bool = Field(False, description="Keep the frozen weights in 4 bits (bitsandbytes).")
    checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass instead of keeping them."
    )
    checkpoint_steps: int = Field(200, ge=1, description="Steps between two states that can be resumed.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.four_bit and self.adapter.rank == 0:
            raise ValueError("weights in 4 bits cannot be trained: choose adapter.rank of 1 or more")
        return self

    @classmethod
    def presets(cls) -> "dict[str, Tuning]":
        """Return ``published-sft``, ``published-align``, and ``small`` for one trained from scratch."""
        return {
            "published-sft": cls(precision="bf16", checkpointing=True),
            "published-align": cls(
                precision="bf16", checkpointing=True, batch_size=4, whole_batches=True, accumulation=8
            ),
            "small": cls(
                adapter=Adapter(rank=0),
                learning_rate=2e-3,
                warmup=0.05,
                epochs=8,
                batch_size=16,
                accumulation=1,
                max_tokens=1024,
                max_pixels=56 * 56,
                prompt_loss=0.5,
            ),
        }


def tuning_of(preset: str, changes: Mapping[str, Any]) -> Tuning:
    """Return a preset with changes laid over it; ``adapter.rank`` is the rank of the adapter.

    Raises
    ------
    ConfigError
        If there is no such preset or setting.
    """
    known = Tuning.presets()
    if preset not in known:
        near = difflib.get_close_matches(preset, known, n=1, cutoff=0.5)
        guess = f"Did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"There is no preset {preset!r}.", f"{guess}Presets are {', '.join(known)}.")
    return Tuning.parse(laid_over(known[preset].model_dump(mode="json"), changes))
