"""Scores of candidates by a language model: log-likelihoods of their titles, prompts read once.

Deterministic, and nothing has to be parsed. A second mode lets the model write, one token after the other,
but nothing that is not a candidate's title.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from prismrec.base.progress import SILENT, Progress
from prismrec.sequential.backbone import Backbone
from prismrec.sequential.examples import Example, Task
from prismrec.sequential.processor import Family, Tokens
from prismrec.sequential.rows import collate, picture_inputs, positions
from prismrec.sequential.writer import Writer

Floats = npt.NDArray[np.float64]

# Titles of an answer to top3.
_PLACES = 3


@dataclass(frozen=True)
class _Read:
    """Prompts that the model has read: what it needs to go on from there."""

    cache: Any
    mask: Tensor
    next_position: Tensor
    last_logits: Tensor


def score_examples(
    backbone: Backbone,
    writer: Writer,
    examples: Sequence[Example],
    *,
    batch_size: int = 8,
    rows: int = 64,
    normalised: bool = True,
    progress: Progress = SILENT,
) -> list[Floats]:
    """Score the candidates of examples.

    ``binary``: one score, ``log P(Yes) - log P(No)``. Otherwise one a candidate: the log-probability of its
    quoted title right after the prompt, for ``top3`` as the first of the answer.

    Parameters
    ----------
    backbone
        The model.
    writer
        Of the model.
    examples
        What to score.
    batch_size
        Prompts that are read together.
    rows
        Titles that are scored together.
    normalised
        Divide a title's log-probability by its number of tokens: without it long titles lose.
    progress
        Where to report to.

    Returns
    -------
    list of array
        float64, one array an example, in the order of its candidates.
    """
    scores: list[Floats] = []
    backbone.model.eval()
    with torch.inference_mode(), progress.task("score", len(examples)) as task:
        for start in range(0, len(examples), batch_size):
            block = examples[start : start + batch_size]
            answers = [_answers(writer, example) for example in block]
            prompts = [
                writer.prompt(example, max(map(len, a))) for example, a in zip(block, answers, strict=True)
            ]
            found = _log_probs(backbone, writer, prompts, answers, rows)
            for example, (sums, counts) in zip(block, found, strict=True):
                if example.label is not None or writer.task is Task.BINARY:
                    scores.append(sums[:1] - sums[1:])
                else:
                    scores.append(sums / counts if normalised else sums)
            task.advance(len(block))
    return scores


def write_choices(
    backbone: Backbone, writer: Writer, examples: Sequence[Example], *, progress: Progress = SILENT
) -> list[Floats]:
    """Let the model write titles, nothing but candidates, and score them by their order.

    At each token the likeliest is taken of those with which a candidate's title goes on. For ``top3`` three
    titles are written, otherwise one. What is not written shares the last place.

    Returns
    -------
    list of array
        One array an example: 3, 2, 1 for ``top3``, otherwise 1, for what was written; 0 for the rest.
    """
    scores: list[Floats] = []
    backbone.model.eval()
    with torch.inference_mode(), progress.task("write", len(examples)) as task:
        for example in examples:
            count = _PLACES if writer.task is Task.TOP3 else 1
            scores.append(_written(backbone, writer, example, count))
            task.advance()
    return scores


def _answers(writer: Writer, example: Example) -> list[Tensor]:
    if writer.task is Task.BINARY:
        return [writer.processor.answer(writer.text((), label)) for label in (True, False)]
    return _pieces(writer, example, 0)


def _pieces(writer: Writer, example: Example, place: int) -> list[Tensor]:
    """Return each candidate's quoted title as the model was taught to write it at a place of an answer."""
    before, after = "", ""
    if writer.task is Task.TOP3:
        rest, first = _parted(writer)
        before, after = first if place > 0 else "", rest if place < _PLACES - 1 else ""
    titles = [writer.shelf.titles[item] for item in example.candidates]
    return [writer.processor.answer(f'{before}"{title}"{after}', ends=False) for title in titles]


def _parted(writer: Writer) -> tuple[str, str]:
    """Part what stands between two titles of an answer where a token ends.

    Many tokenizers have one token for a quotation mark and a comma: after a title that others follow, a model
    that learnt whole answers never writes the mark alone.

    Returns
    -------
    str, str
        What belongs to the title before, and to the title behind.
    """
    between, write = writer.template.answer_separator, writer.processor.answer
    whole = write(f'"a"{between}"b"').tolist()
    for cut in range(len(between) + 1):
        before, behind = between[:cut], between[cut:]
        if write(f'"a"{before}', ends=False).tolist() + write(f'{behind}"b"').tolist() == whole:
            return before, behind
    return between, ""


def _log_probs(
    backbone: Backbone,
    writer: Writer,
    prompts: Sequence[Tokens],
    answers: Sequence[Sequence[Tensor]],
    rows: int,
) -> list[tuple[Floats, Floats]]:
    """Return summed log-probability and number of tokens of each answer, prompt by prompt."""
    read = _read(backbone, writer, prompts)
    flat = [answer for group in answers for answer in group]
    owner = torch.tensor([i for i, group in enumerate(answers) for _ in group], device=backbone.device)
    sums = []
    for start in range(0, len(flat), rows):
        sums.append(_block(backbone, read, owner[start : start + rows], flat[start : start + rows]))
    all_sums = torch.cat(sums).double().cpu().numpy()
    counts = np.array([len(answer) for answer in flat], dtype=np.float64)
    ends = np.cumsum([len(group) for group in answers])[:-1]
    return list(zip(np.split(all_sums, ends), np.split(counts, ends), strict=True))


def _read(backbone: Backbone, writer: Writer, prompts: Sequence[Tokens]) -> _Read:
    empty = torch.zeros(0, dtype=torch.int64)
    rows = collate(prompts, [empty] * len(prompts), writer.pictures(prompts), writer.processor.pad)
    rows = rows.to(backbone.device)
    places, shift = positions(backbone.base, rows)
    outputs = backbone.model(
        input_ids=rows.ids,
        attention_mask=rows.mask,
        position_ids=places,
        use_cache=True,
        logits_to_keep=1,
        **picture_inputs(backbone.base, rows),
    )
    following = rows.mask.sum(dim=1, keepdim=True) + shift
    return _Read(outputs.past_key_values, rows.mask, following, outputs.logits[:, -1].float())


def _block(backbone: Backbone, read: _Read, owner: Tensor, answers: Sequence[Tensor]) -> Tensor:
    """Return summed log-probabilities of some answers, each after the prompt that owns it."""
    lengths = torch.tensor([len(a) for a in answers], device=owner.device)
    ids = torch.nn.utils.rnn.pad_sequence(list(answers), batch_first=True).to(owner.device)
    kept = torch.arange(ids.shape[1], device=owner.device) < lengths[:, None]
    first = read.last_logits[owner]
    sums = -functional.cross_entropy(first, ids[:, 0], reduction="none")
    if ids.shape[1] == 1:
        return sums
    logits = _on(backbone, read, owner, ids[:, :-1], kept[:, :-1]).logits.float()
    later = -functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return sums + (later * kept[:, 1:]).sum(dim=1)


def _on(backbone: Backbone, read: _Read, owner: Tensor, ids: Tensor, kept: Tensor) -> Any:
    """Read on after the prompts; the cache of the prompts stays as it is."""
    cache = copy.deepcopy(read.cache)
    cache.batch_select_indices(owner)
    places = read.next_position[owner] + torch.arange(ids.shape[1], device=ids.device)
    if backbone.processor.family is Family.QWEN:
        places = places.expand(3, -1, -1)
    return backbone.model(
        input_ids=ids,
        attention_mask=torch.cat((read.mask[owner], kept.to(read.mask.dtype)), dim=1),
        position_ids=places,
        past_key_values=cache,
        use_cache=True,
    )


def _written(backbone: Backbone, writer: Writer, example: Example, count: int) -> Floats:
    places = min(count, len(example.candidates))
    pieces = [[t.tolist() for t in _pieces(writer, example, place)] for place in range(places)]
    prompt = writer.prompt(example, sum(max(map(len, titles)) for titles in pieces))
    read = _read(backbone, writer, [prompt])
    scores = np.zeros(len(example.candidates))
    said: list[int] = []
    for place, titles in enumerate(pieces):
        open_titles = {i: title for i, title in enumerate(titles) if scores[i] == 0}
        choice, tokens = _likeliest(backbone, read, said, open_titles)
        scores[choice] = count - place
        said = [*said, *tokens]
    return scores


def _likeliest(
    backbone: Backbone, read: _Read, said: list[int], titles: dict[int, list[int]]
) -> tuple[int, list[int]]:
    """Walk down the tree of titles by the likeliest token; return which title is reached, and its tokens.

    Titles differ and end with their second quotation mark, so that none is the beginning of another.
    """
    place = 0
    while len(titles) > 1:
        nexts = sorted({title[place] for title in titles.values()})
        if len(nexts) > 1:
            (any_title, *_) = titles.values()
            logits = _next_logits(backbone, read, said + any_title[:place])
            best = nexts[int(logits[torch.tensor(nexts, device=logits.device)].argmax())]
            titles = {i: title for i, title in titles.items() if title[place] == best}
        place += 1
    ((choice, tokens),) = titles.items()
    return choice, tokens


def _next_logits(backbone: Backbone, read: _Read, said: list[int]) -> Tensor:
    if not said:
        return read.last_logits[0]
    ids = torch.tensor([said], device=backbone.device)
    owner = torch.zeros(1, dtype=torch.int64, device=backbone.device)
    logits: Tensor = _on(backbone, read, owner, ids, torch.ones_like(ids, dtype=torch.bool)).logits
    return logits[0, -1].float()
