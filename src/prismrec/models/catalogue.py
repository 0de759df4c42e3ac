"""All models. Adding one is its file and a line here."""

import difflib

from prismrec.base.errors import ConfigError
from prismrec.models.alignrec import AlignRecConfig
from prismrec.models.base import ModelConfig
from prismrec.models.bm3 import BM3Config
from prismrec.models.bpr_mf import BPRMFConfig
from prismrec.models.clcrec import CLCRecConfig
from prismrec.models.content_profile import ContentProfileConfig
from prismrec.models.cooccurrence import CooccurrenceConfig
from prismrec.models.dragon import DRAGONConfig
from prismrec.models.dropoutnet import DropoutNetConfig
from prismrec.models.dualgnn import DualGNNConfig
from prismrec.models.freedom import FREEDOMConfig
from prismrec.models.gar import GARConfig
from prismrec.models.grcn import GRCNConfig
from prismrec.models.holo import HOLOConfig
from prismrec.models.kernel_blend import KernelBlendConfig
from prismrec.models.kernel_ridge import KernelRidgeConfig
from prismrec.models.lattice import LATTICEConfig
from prismrec.models.lgmrec import LGMRecConfig
from prismrec.models.lightgcn import LightGCNConfig
from prismrec.models.linear_map import LinearMapConfig
from prismrec.models.local_kernel import LocalKernelConfig
from prismrec.models.mamex import MAMEXConfig
from prismrec.models.metaembed import MetaEmbedConfig
from prismrec.models.mgcn import MGCNConfig
from prismrec.models.milk import MILKConfig
from prismrec.models.mmgcn import MMGCNConfig
from prismrec.models.mtpr import MTPRConfig
from prismrec.models.popularity import PopularityConfig
from prismrec.models.random_items import RandomConfig
from prismrec.models.sasrec import SASRecConfig
from prismrec.models.slmrec import SLMRecConfig
from prismrec.models.vbpr import VBPRConfig

MODELS: tuple[type[ModelConfig], ...] = (
    RandomConfig,
    PopularityConfig,
    BPRMFConfig,
    LightGCNConfig,
    SASRecConfig,
    ContentProfileConfig,
    LinearMapConfig,
    KernelRidgeConfig,
    CooccurrenceConfig,
    LocalKernelConfig,
    KernelBlendConfig,
    VBPRConfig,
    MMGCNConfig,
    GRCNConfig,
    DualGNNConfig,
    SLMRecConfig,
    LATTICEConfig,
    BM3Config,
    FREEDOMConfig,
    MGCNConfig,
    DRAGONConfig,
    LGMRecConfig,
    AlignRecConfig,
    MTPRConfig,
    MILKConfig,
    CLCRecConfig,
    GARConfig,
    DropoutNetConfig,
    MetaEmbedConfig,
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
