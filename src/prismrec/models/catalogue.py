"""All models. Adding one is its file and a line here."""

import difflib

from prismrec.base.errors import ConfigError
from prismrec.models.alignrec import AlignRecConfig
from prismrec.models.base import ModelConfig
from prismrec.models.bpr_mf import BPRMFConfig
from prismrec.models.clcrec import CLCRecConfig
from prismrec.models.content_profile import ContentProfileConfig
from prismrec.models.cooccurrence import CooccurrenceConfig
from prismrec.models.dropoutnet import DropoutNetConfig
from prismrec.models.gar import GARConfig
from prismrec.models.holo import HOLOConfig
from prismrec.models.kernel_blend import KernelBlendConfig
from prismrec.models.kernel_ridge import KernelRidgeConfig
from prismrec.models.linear_map import LinearMapConfig
from prismrec.models.local_kernel import LocalKernelConfig
from prismrec.models.mamex import MAMEXConfig
from prismrec.models.metaembed import MetaEmbedConfig
from prismrec.models.milk import MILKConfig
from prismrec.models.mtpr import MTPRConfig
from prismrec.models.popularity import PopularityConfig
from prismrec.models.random_items import RandomConfig

MODELS: tuple[type[ModelConfig], ...] = (
    RandomConfig,
    PopularityConfig,
    BPRMFConfig,
    ContentProfileConfig,
    LinearMapConfig,
    KernelRidgeConfig,
    CooccurrenceConfig,
    LocalKernelConfig,
    KernelBlendConfig,
    MTPRConfig,
    MILKConfig,
    CLCRecConfig,
    GARConfig,
    DropoutNetConfig,
    MetaEmbedConfig,
    AlignRecConfig,
    MAMEXConfig,
    HOLOConfig,
)
"""From the simplest to the newest."""


def config_of(name: str) -> type[ModelConfig]:
    """Return the configuration class of a model.

    Raises
    ------
    ConfigError
        If there is no such model; the message names the nearest and all.
    """
    by_name = {model.name: model for model in MODELS}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name.lower().replace("_", "-"), by_name, n=1, cutoff=0.5)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"There is no model {name!r}.", f"{guess}There are: {', '.join(by_name)}.")
