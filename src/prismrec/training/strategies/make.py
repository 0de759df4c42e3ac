"""From a strategy's settings to the strategy."""

from prismrec.models.strategies import (
    ASAM,
    BSAM,
    GSAM,
    SAM,
    WSAM,
    AdversarialFeatures,
    FriendlySAM,
    LookSAM,
    MirrorGradient,
    Plain,
    Strategy,
)
from prismrec.training.strategies.adversarial_features import AdversarialFeatureSteps
from prismrec.training.strategies.base import StepStrategy
from prismrec.training.strategies.bsam import BSAMSteps
from prismrec.training.strategies.friendly_sam import FriendlySAMSteps
from prismrec.training.strategies.looksam import LookSAMSteps
from prismrec.training.strategies.mirror_gradient import MirrorGradientSteps
from prismrec.training.strategies.plain import PlainSteps
from prismrec.training.strategies.sam import ASAMSteps, GSAMSteps, SAMSteps, WSAMSteps


def make_strategy(settings: Strategy) -> StepStrategy:  # noqa: PLR0911 - one for each kind
    """Make a strategy that has taken no step yet."""
    match settings:
        case Plain():
            return PlainSteps()
        case SAM():
            return SAMSteps(settings)
        case ASAM():
            return ASAMSteps(settings)
        case GSAM():
            return GSAMSteps(settings)
        case WSAM():
            return WSAMSteps(settings)
        case FriendlySAM():
            return FriendlySAMSteps(settings)
        case LookSAM():
            return LookSAMSteps(settings)
        case BSAM():
            return BSAMSteps(settings)
        case MirrorGradient():
            return MirrorGradientSteps(settings)
        case AdversarialFeatures():
            return AdversarialFeatureSteps(settings)
