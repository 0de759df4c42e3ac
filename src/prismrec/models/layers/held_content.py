"""Other content in the place of what a trained model keeps of its training items.

Graph recommenders read the training items' content from tables and graphs that were made once, not from a
batch. Whoever damages content, or brings better content, has to reach those too.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from prismrec.base.errors import InputError
from prismrec.features.store import ItemFeatures
from prismrec.models.layers.content import Content, item_batch
from prismrec.models.layers.feature_tables import FeatureTables
from prismrec.models.layers.item_graph import ItemGraph
from prismrec.models.layers.modality_graphs import ModalityGraph, ModalityGraphs

_BLOCK = 8192


def holders(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a model that hold content of training items: tables and graphs."""
    kinds = (FeatureTables, ItemGraph, ModalityGraph)
    return [module for module in model.modules() if isinstance(module, kinds)]


@torch.no_grad()
def replace_content(
    model: nn.Module, features: ItemFeatures, before: ItemFeatures, warm: npt.NDArray[np.int32]
) -> None:
    """Put other content of the training items into the layers that hold it, in place.

    Graphs are made anew from the new content. Constant tables take it over; to tables that were trained the
    difference between the new content and the old is added, so that what was learnt stays. Statistics of the
    training part (means for centring, and for missing content) belong to what was learnt, and stay.

    Parameters
    ----------
    model
        On the CPU, in evaluation mode.
    features
        The new content of all items; rows of `warm` are read only.
    before
        What the model was trained on.
    warm
        Codes of the training items, ascending.

    Raises
    ------
    InputError
        If the modality of a graph, or what an item graph is made from, cannot be told.
    """
    for module in model.modules():
        if isinstance(module, FeatureTables):
            _refill(module, features, before, warm)
        elif isinstance(module, ItemGraph):
            module.fit(_content_of(model, module), features, warm)
        elif isinstance(module, ModalityGraphs):
            module.fit(features, warm)
    for place, graph in _single_graphs(model, len(features.names)):
        graph.fit(place, features, warm)


def _refill(
    tables: FeatureTables, features: ItemFeatures, before: ItemFeatures, warm: npt.NDArray[np.int32]
) -> None:
    for first in range(0, len(warm), _BLOCK):
        codes = warm[first : first + _BLOCK]
        items = item_batch(features, codes)
        new, old = tables.filled(items), tables.filled(item_batch(before, codes))
        for table, now, then in zip(tables.tables, new, old, strict=True):
            table[items.codes] = _moved(table[items.codes], now, then) if _is_trained(table) else now


def _moved(learnt: Tensor, now: Tensor, then: Tensor) -> Tensor:
    # Not learnt + 0 where nothing changed: that would be the same, and this says so bit for bit.
    return torch.where(now == then, learnt, learnt + (now - then))


def _is_trained(table: Tensor) -> bool:
    return isinstance(table, nn.Parameter)


def _content_of(model: nn.Module, graph: ItemGraph) -> Content:
    dim = graph.content.shape[1]
    found = [m for m in model.modules() if isinstance(m, Content) and m.dim == dim]
    if len(found) != 1:
        raise InputError(
            f"Cannot tell from which of {len(found)} contents an item graph was made.",
            "The model needs a method `see` of its own.",
        )
    return found[0]


def _single_graphs(model: nn.Module, modalities: int) -> Iterator[tuple[int, ModalityGraph]]:
    """Yield graphs of one modality that no `ModalityGraphs` adds up, each with its modality's place."""
    added_up = {g for m in model.modules() if isinstance(m, ModalityGraphs) for g in m.graphs}
    single = [m for m in model.modules() if isinstance(m, ModalityGraph) and m not in added_up]
    if len(single) % max(1, modalities):
        raise InputError(
            f"Cannot tell to which of {modalities} modalities {len(single)} graphs belong.",
            "The model needs a method `see` of its own.",
        )
    # Models list them modality by modality, as `ModelInputs` does.
    for number, graph in enumerate(single):
        yield number % modalities, graph
