"""Items as a language model sees them before it reads: title and picture in one vector.

Equation references are to Y. Wang et al. (SIGIR 2026, arXiv 2511.18740).
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from prismrec.base.progress import SILENT, Progress
from prismrec.sequential.backbone import Backbone
from prismrec.sequential.processor import Tokens
from prismrec.sequential.rows import collate, picture_inputs
from prismrec.sequential.writer import Writer

_BATCH = 32


def item_vectors(
    backbone: Backbone, writer: Writer, *, progress: Progress = SILENT
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Encode all items: ``norm(norm(t) + norm(v))``.

    t is the mean of the input embeddings of the title's tokens, v the mean of what the eyes give for the
    picture, zero where there is none.

    Returns
    -------
    vectors
        Unit length, shape ``(n_items, dim)``.
    present
        Which items have one; all, as every item has a name.
    """
    titles = writer.shelf.titles
    table = backbone.base.get_input_embeddings()
    made: list[Tensor] = []
    with torch.inference_mode(), progress.task("encode items", len(titles)) as task:
        for start in range(0, len(titles), _BATCH):
            codes = range(start, min(start + _BATCH, len(titles)))
            texts = torch.stack(
                [
                    table(writer.processor.answer(titles[c], ends=False).to(backbone.device)).mean(dim=0)
                    for c in codes
                ]
            )
            seen = _seen(backbone, writer, list(codes), texts.shape[1])
            both = functional.normalize(texts.float(), dim=1) + functional.normalize(seen, dim=1)
            made.append(functional.normalize(both, dim=1).cpu())
            task.advance(len(codes))
    vectors = torch.cat(made).numpy().astype(np.float32)
    return vectors, np.ones(len(titles), dtype=np.bool_)


def _seen(backbone: Backbone, writer: Writer, codes: list[int], dim: int) -> Tensor:
    """Mean vector of each item's picture, float32, shape ``(len(codes), dim)``; zero without one."""
    means = torch.zeros(len(codes), dim, device=backbone.device)
    if not writer.processor.sees:
        return means
    empty = torch.zeros(0, dtype=torch.int64)
    asked = [Tokens(empty, empty.int(), (code,)) for code in codes]
    pictures = writer.pictures(asked)
    shown = [code for code in codes if code in pictures]
    if shown:
        prompts = [Tokens(torch.zeros(1, dtype=torch.int64), empty.int(), (code,)) for code in shown]
        rows = collate([_one(p) for p in prompts], [empty] * len(prompts), pictures, writer.processor.pad)
        found = picture_inputs(backbone.base, rows.to(backbone.device))["mm_encoder_outputs"]["image"]
        for code, vectors in zip(shown, found.pooler_output, strict=True):
            means[codes.index(code)] = vectors.float().mean(dim=0)
    return means


def _one(prompt: Tokens) -> Tokens:
    return Tokens(prompt.ids, torch.zeros(1, dtype=torch.int32), prompt.pictures)
