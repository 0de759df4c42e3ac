"""How a step of training is taken: settings of the strategies.

They stand beside the models because a training plan names one; what they do is in
`prismrec.training.strategies`.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Radius = Literal["global", "rows", "relative"]
Scope = Literal["all", "no_features", "ids_only"]


class Plain(BaseModel):
    """One gradient, one step of the base optimiser."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["plain"] = "plain"


class _TwoPasses(BaseModel):
    """What strategies have in common that take a gradient where a first one has led."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rho: float = Field(
        0.03,
        gt=0,
        le=100,
        description="How far the weights are moved before the second gradient is taken; see radius.",
    )
    radius: Radius = Field(
        "rows",
        description="'global': the length of the whole perturbation, as published. 'rows': as large an "
        "ascent, to first order, as moving each row of each matrix by rho, so that one rho serves any number "
        "of users, items and weights. 'relative': the same, each row by rho times its own length.",
    )
    scope: Scope = Field(
        "all",
        description="What is moved. 'no_features': not the trained tables of content. 'ids_only': "
        "embeddings of users and items alone.",
    )
    fresh_noise: bool = Field(
        False,
        description="Whether the second pass draws dropout and other noise anew; otherwise it sees the same.",
    )


class SAM(_TwoPasses):
    """The gradient where the loss is highest nearby (Foret et al., ICLR 2021, arXiv 2010.01412)."""

    name: Literal["sam"] = "sam"


class ASAM(BaseModel):
    """SAM in a neighbourhood that scales with the weights (Kwon et al., ICML 2021, arXiv 2102.11600)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["asam"] = "asam"
    rho: float = Field(0.5, gt=0, le=100, description="Length of the perturbation after scaling.")
    eta: float = Field(
        0.01, ge=0, description="Added to each weight's size, so that a weight of 0 moves too."
    )
    scope: Scope = Field("all", description="What is moved, as for SAM.")
    fresh_noise: bool = Field(False, description="Whether the second pass draws its noise anew.")


class GSAM(_TwoPasses):
    """SAM that also lowers the gap to the perturbed loss (Zhuang et al., ICLR 2022, arXiv 2203.08065)."""

    name: Literal["gsam"] = "gsam"
    alpha: float = Field(
        0.4, ge=0, le=10, description="Weight of the plain gradient's part at right angles to SAM's."
    )


class WSAM(_TwoPasses):
    """Sharpness as a weighted regulariser (Yue et al., KDD 2023, arXiv 2305.15817)."""

    name: Literal["wsam"] = "wsam"
    gamma: float = Field(
        0.9, ge=0, lt=1, description="Sharpness counts gamma / (1 - gamma); 0.5 is SAM, 0 plain training."
    )
    decoupled: bool = Field(
        True, description="Whether sharpness is lowered beside the base optimiser, as decoupled decay is."
    )


class FriendlySAM(_TwoPasses):
    """SAM that climbs along what is particular to the batch (Li et al., CVPR 2024, arXiv 2403.12350)."""

    name: Literal["friendly-sam"] = "friendly-sam"
    sigma: float = Field(1.0, ge=0, le=10, description="How much of the mean gradient is taken out.")
    decay: float = Field(0.9, ge=0, lt=1, description="Share that the mean gradient keeps in a step.")


class LookSAM(_TwoPasses):
    """SAM in every k-th step; between them its direction is used again (Liu et al., CVPR 2022)."""

    name: Literal["looksam"] = "looksam"
    every: int = Field(5, ge=1, le=1000, description="Steps from one second pass to the next.")
    alpha: float = Field(0.7, ge=0, le=10, description="Weight of the direction that is used again.")


class BSAM(_TwoPasses):
    """Sharpness-aware steps on batch data (J. Xu et al., IEEE TKDE 37(11), 2025); see docs/bsam.md.

    The name also stands for Bayesian SAM (arXiv 2210.01620) and others; this is none of them.
    """

    name: Literal["bsam"] = "bsam"
    reading: Literal["R1", "R1-sum", "R2", "R3"] = Field(
        "R1",
        description="How the paper's record is understood. 'R1': both passes on the same batch. 'R1-sum': "
        "the sum of both gradients. 'R2': only rows that the batch names are moved, each by its own "
        "gradient. 'R3': up on one half of the batch, down on the other.",
    )
    direction: Literal["gradient", "random"] = Field(
        "gradient", description="'random': a control that moves as far, but anywhere."
    )


class BSAMPlus(BSAM):
    """BSAM on a mixed loss: a share of the plain gradient beside the perturbed one."""

    name: Literal["bsam+"] = "bsam+"  # type: ignore[assignment]
    mix: float = Field(0.5, ge=0, le=1, description="Share a of the plain gradient; the other has 1 - a.")


class MirrorGradient(BaseModel):
    """Every beta-th step goes down and some way up again (Zhong et al., WWW 2024, arXiv 2402.11262)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["mirror-gradient"] = "mirror-gradient"
    down: float = Field(1.0, gt=0, description="alpha_1: weight of the step down.")
    up: float = Field(0.2, ge=0, description="alpha_2: weight of the step up; below alpha_1.")
    every: int = Field(3, ge=1, le=1000, description="beta: steps from one mirrored step to the next.")
    as_released: bool = Field(
        False,
        description="Both steps through the base optimiser, as the released code has it. With Adam the "
        "second one then follows the moments and does not climb.",
    )
    fresh_noise: bool = Field(False, description="Whether the second pass draws its noise anew.")


class AdversarialFeatures(BaseModel):
    """Training against content that was moved to hurt (AMR: Tang et al., TKDE 2020, arXiv 1809.07062)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["adversarial-features"] = "adversarial-features"
    eta: float = Field(0.1, gt=0, le=10, description="How far a vector is moved, as a share of its length.")
    weight: float = Field(1.0, ge=0, description="lambda: weight of the loss on moved content.")
    fresh_noise: bool = Field(False, description="Whether the second pass draws its noise anew.")


Strategy = Annotated[
    Plain
    | SAM
    | ASAM
    | GSAM
    | WSAM
    | FriendlySAM
    | LookSAM
    | BSAM
    | BSAMPlus
    | MirrorGradient
    | AdversarialFeatures,
    Field(discriminator="name"),
]
