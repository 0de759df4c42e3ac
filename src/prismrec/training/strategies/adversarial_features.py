"""Adversarial features: the loss also counts on content that was moved to raise it.

J. Tang, X. Du, X. He, F. Yuan, Q. Tian, T.-S. Chua: Adversarial Training Towards Robust Multimedia
Recommender System, TKDE 2020, arXiv 1809.07062, equations 7 to 9.
"""

import torch
from torch import Tensor

from prismrec.base.errors import InputError
from prismrec.models.strategies import AdversarialFeatures
from prismrec.training.strategies.base import StepStrategy
from prismrec.training.strategies.bsam import along_rows
from prismrec.training.strategies.gradients import mixed
from prismrec.training.strategies.passes import Content, Passes


class AdversarialFeatureSteps(StepStrategy):
    """``L(content) + lambda L(content + Delta)``, Delta a step up of a share of each vector's length.

    The paper moves each vector by one length eta; raw content comes in all scales, so here it is a share.
    """

    def __init__(self, settings: AdversarialFeatures) -> None:
        self.settings = settings

    def step(self, passes: Passes) -> dict[str, Tensor]:
        """Take a step.

        Raises
        ------
        InputError
            If no content is read in the loss.
        """
        content = Content(passes.model, passes.batch)
        here = passes.take(content=content)
        if all(gradient is None for gradient in here.content):
            raise InputError(
                f"{passes.model.config.name} reads no content in its loss that could be moved.",
                "Choose another training.strategy.",
            )
        before = [leaf.clone() for leaf in content.leaves]
        with torch.no_grad():
            for leaf, gradient in zip(content.leaves, here.content, strict=True):
                if gradient is not None:
                    leaf.add_(along_rows(gradient, leaf, self.settings.eta))
        try:
            there = passes.take(fresh=self.settings.fresh_noise, content=content)
        finally:
            with torch.no_grad():
                for leaf, old in zip(content.leaves, before, strict=True):
                    leaf.copy_(old)
        passes.descend(mixed(here.gradients, 1.0, there.gradients, self.settings.weight))
        return here.terms
