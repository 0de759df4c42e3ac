"""How a model asks to be trained. The loop that does it is in `prismrec.training`."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from prismrec.models.augmentation_plan import Augmentation
from prismrec.models.strategies import Plain, Strategy


class TrainingPlan(BaseModel):
    """Settings of the training loop.

    They stand beside the models because a model's preset is both: hyper-parameters, and how it was trained
    with them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampling: Literal["triplets", "users"] = Field(
        "triplets",
        description="'triplets': positive pairs with drawn negatives. 'users': whole users against all "
        "training items (exact softmax, no negatives).",
    )
    batch_size: int = Field(2048, ge=1, description="Pairs, or users, a step.")
    epochs: int = Field(200, ge=1, description="At most so many passes over the training part.")
    negatives: int = Field(1, ge=1, le=4096, description="Negatives of each pair.")
    negative_items: Literal["warm", "all"] = Field(
        "warm",
        description="Where negatives come from. 'all' lets cold items be negatives, as the released code of "
        "MILK and MAMEX does.",
    )
    negative_sampling: Literal["uniform", "popularity", "in-batch"] = Field(
        "uniform",
        description="How negatives are drawn; never one that the user has touched. 'popularity': as often as "
        "an item's count in training to popularity_power. 'in-batch': other positives of the same batch, so "
        "that a batch holds few items; uniform for a user who has touched them all.",
    )
    popularity_power: float = Field(
        0.75,
        ge=0,
        le=4,
        description="With negative_sampling='popularity'; 0 is uniform. Cold items count as 1.",
    )
    grouping: Literal["none", "items"] = Field(
        "none",
        description="'items': pairs of an item come one after the other, items in a new random order each "
        "epoch. A batch then holds fewer items, and the pairs of a batch are less independent.",
    )
    optimizer: Literal["adam", "sgd"] = Field(
        "adam",
        description="'sgd': plain stochastic gradient descent, without moments. Losses are means over the "
        "batch, so a pair moves its rows by learning_rate / batch_size times its gradient; Adam's rates do "
        "not fit.",
    )
    strategy: Strategy = Field(
        Plain(),
        description="How a step is taken: plain, sam, asam, gsam, wsam, friendly-sam, looksam, bsam, bsam+, "
        "mirror-gradient, adversarial-features; with settings of its own, such as rho.",
    )
    augmentation: Augmentation = Field(
        Augmentation(),
        description="Disturbed content and edges in training: modality_dropout, feature_noise, edge_dropout, "
        "modality_mixup.",
    )
    learning_rate: float = Field(1e-3, gt=0, le=10)
    weight_decay: float = Field(
        0.0,
        ge=0,
        description="Decoupled decay (as AdamW has it) of all parameters but the embeddings of users.",
    )
    row_updates: Literal["dense", "lazy"] = Field(
        "lazy",
        description="Adam on embedding tables. 'dense': every row moves in every step, as in the released "
        "codes of most papers. 'lazy': only the batch's rows, many times faster with many users. With 'sgd' "
        "both give the same, as a row without a gradient stays.",
    )
    schedule: Literal["constant", "cosine", "linear", "decay"] = Field(
        "constant",
        description="Course of the learning rate. 'cosine' and 'linear': down to 0 over all epochs. 'decay': "
        "times decay in every decay_epochs epochs, a little less in each.",
    )
    decay: float = Field(0.96, gt=0, le=1, description="With schedule='decay'.")
    decay_epochs: int = Field(50, ge=1, description="With schedule='decay'.")
    warmup_steps: int = Field(0, ge=0, description="Steps over which the learning rate rises from 0.")
    clip_norm: float | None = Field(
        None, gt=0, description="Largest norm of the gradient; None: no clipping."
    )
    precision: Literal["fp32", "bf16", "auto"] = Field(
        "fp32",
        description="'bf16': large products in bfloat16, everything else in float32. 'auto': that, where the "
        "processor or GPU has units for it, so that results differ between machines.",
    )
    evaluate_every: int = Field(1, ge=1, description="Epochs between two validations.")
    patience: int = Field(
        10, ge=0, description="Stop after so many validations in a row without a better one; 0: never."
    )
    metric: str = Field("ndcg@10", description="Validation metric that chooses the epoch.")
    candidates: Literal["auto", "strict", "as_released", "all_items", "warm"] = Field(
        "auto",
        description="Items that are ranked in validation. 'auto': what fits the split (strict for cold "
        "items, all_items for a date, warm for the others).",
    )

    @field_validator("strategy", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """Take a name alone for a strategy with its defaults."""
        return {"name": value} if isinstance(value, str) else value
