"""How content and graph are disturbed in training. What does it is in `prismrec.training.augmentation`."""

from pydantic import BaseModel, ConfigDict, Field


class Augmentation(BaseModel):
    """Settings of what training shows a model instead of the truth; with the defaults it is the truth.

    They are part of how a model is trained, so they stand beside `TrainingPlan`. Evaluation and the trained
    model never see disturbed data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality_dropout: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability that a modality of an item is hidden, as if the item did not have it. The "
        "last one never is, so with 1 each item shows one modality, drawn anew.",
    )
    feature_noise: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Deviation of the Gaussian noise that is added to content, times the deviation of each "
        "dimension over the training items that have the modality.",
    )
    edge_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Probability that an edge of the users' and items' graph is left out for an epoch. "
        "Degrees are those of the edges that are left.",
    )
    modality_mixup: float = Field(
        0.0,
        ge=0,
        le=100,
        description="a: an item's vector of a modality becomes lambda times itself plus 1 - lambda times "
        "that of another training item. lambda is drawn from Beta(a, a), and replaced by 1 - lambda where "
        "that is more. The larger a, the stronger; 0: off.",
    )

    @property
    def changes_content(self) -> bool:
        """Whether content is changed in any way."""
        return self.modality_dropout > 0 or self.feature_noise > 0 or self.modality_mixup > 0
