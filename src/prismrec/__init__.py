"""prismrec: recommendations for items that nobody has clicked yet.

What a person types in Python stands here: data in, split, train, evaluate, recommend. Names are imported
when they are first used, so that the package itself is there at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prismrec.base.errors import PrismError as PrismError
    from prismrec.base.errors import SealedError as SealedError
    from prismrec.data.catalog import Catalog as Catalog
    from prismrec.data.dataset import Dataset as Dataset
    from prismrec.data.interactions import Interactions as Interactions
    from prismrec.data.media import MemoryMedia as MemoryMedia
    from prismrec.data.sources.generated import GeneratedConfig as GeneratedConfig
    from prismrec.data.sources.generated import generate as generate
    from prismrec.data.splits import GivenSplit as GivenSplit
    from prismrec.data.splits import GlobalTime as GlobalTime
    from prismrec.data.splits import ItemColdStart as ItemColdStart
    from prismrec.data.splits import LeaveLast as LeaveLast
    from prismrec.data.splits import RandomHoldout as RandomHoldout
    from prismrec.data.splits import TrainOnAll as TrainOnAll
    from prismrec.features.encode import encode as encode
    from prismrec.features.store import FeatureStore as FeatureStore
    from prismrec.models.alignrec import AlignRecConfig as AlignRecConfig
    from prismrec.models.bm3 import BM3Config as BM3Config
    from prismrec.models.bpr_mf import BPRMFConfig as BPRMFConfig
    from prismrec.models.clcrec import CLCRecConfig as CLCRecConfig
    from prismrec.models.content_profile import ContentProfileConfig as ContentProfileConfig
    from prismrec.models.cooccurrence import CooccurrenceConfig as CooccurrenceConfig
    from prismrec.models.dragon import DRAGONConfig as DRAGONConfig
    from prismrec.models.dropoutnet import DropoutNetConfig as DropoutNetConfig
    from prismrec.models.dualgnn import DualGNNConfig as DualGNNConfig
    from prismrec.models.freedom import FREEDOMConfig as FREEDOMConfig
    from prismrec.models.gar import GARConfig as GARConfig
    from prismrec.models.grcn import GRCNConfig as GRCNConfig
    from prismrec.models.holo import HOLOConfig as HOLOConfig
    from prismrec.models.kernel_blend import KernelBlendConfig as KernelBlendConfig
    from prismrec.models.kernel_ridge import KernelRidgeConfig as KernelRidgeConfig
    from prismrec.models.lattice import LATTICEConfig as LATTICEConfig
    from prismrec.models.lgmrec import LGMRecConfig as LGMRecConfig
    from prismrec.models.lightgcn import LightGCNConfig as LightGCNConfig
    from prismrec.models.linear_map import LinearMapConfig as LinearMapConfig
    from prismrec.models.local_kernel import LocalKernelConfig as LocalKernelConfig
    from prismrec.models.mamex import MAMEXConfig as MAMEXConfig
    from prismrec.models.metaembed import MetaEmbedConfig as MetaEmbedConfig
    from prismrec.models.mgcn import MGCNConfig as MGCNConfig
    from prismrec.models.milk import MILKConfig as MILKConfig
    from prismrec.models.mmgcn import MMGCNConfig as MMGCNConfig
    from prismrec.models.mtpr import MTPRConfig as MTPRConfig
    from prismrec.models.plan import TrainingPlan as TrainingPlan
    from prismrec.models.popularity import PopularityConfig as PopularityConfig
    from prismrec.models.random_items import RandomConfig as RandomConfig
    from prismrec.models.sasrec import SASRecConfig as SASRecConfig
    from prismrec.models.slmrec import SLMRecConfig as SLMRecConfig
    from prismrec.models.vbpr import VBPRConfig as VBPRConfig
    from prismrec.recommender.evaluate import evaluate as evaluate
    from prismrec.recommender.recommender import Recommender as Recommender
    from prismrec.recommender.train import train as train

__version__ = "0.1.0"

_HOMES = {
    "PrismError": "base.errors",
    "SealedError": "base.errors",
    "Catalog": "data.catalog",
    "Dataset": "data.dataset",
    "Interactions": "data.interactions",
    "MemoryMedia": "data.media",
    "GeneratedConfig": "data.sources.generated",
    "generate": "data.sources.generated",
    "GivenSplit": "data.splits",
    "GlobalTime": "data.splits",
    "ItemColdStart": "data.splits",
    "LeaveLast": "data.splits",
    "RandomHoldout": "data.splits",
    "TrainOnAll": "data.splits",
    "encode": "features.encode",
    "FeatureStore": "features.store",
    "AlignRecConfig": "models.alignrec",
    "BM3Config": "models.bm3",
    "BPRMFConfig": "models.bpr_mf",
    "CLCRecConfig": "models.clcrec",
    "ContentProfileConfig": "models.content_profile",
    "CooccurrenceConfig": "models.cooccurrence",
    "DRAGONConfig": "models.dragon",
    "DropoutNetConfig": "models.dropoutnet",
    "DualGNNConfig": "models.dualgnn",
    "FREEDOMConfig": "models.freedom",
    "GARConfig": "models.gar",
    "GRCNConfig": "models.grcn",
    "HOLOConfig": "models.holo",
    "KernelBlendConfig": "models.kernel_blend",
    "KernelRidgeConfig": "models.kernel_ridge",
    "LATTICEConfig": "models.lattice",
    "LGMRecConfig": "models.lgmrec",
    "LightGCNConfig": "models.lightgcn",
    "LinearMapConfig": "models.linear_map",
    "LocalKernelConfig": "models.local_kernel",
    "MAMEXConfig": "models.mamex",
    "MetaEmbedConfig": "models.metaembed",
    "MGCNConfig": "models.mgcn",
    "MILKConfig": "models.milk",
    "MMGCNConfig": "models.mmgcn",
    "MTPRConfig": "models.mtpr",
    "TrainingPlan": "models.plan",
    "PopularityConfig": "models.popularity",
    "RandomConfig": "models.random_items",
    "SASRecConfig": "models.sasrec",
    "SLMRecConfig": "models.slmrec",
    "VBPRConfig": "models.vbpr",
    "evaluate": "recommender.evaluate",
    "Recommender": "recommender.recommender",
    "train": "recommender.train",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prismrec' has no attribute {name!r}")
    return getattr(import_module(f"prismrec.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
