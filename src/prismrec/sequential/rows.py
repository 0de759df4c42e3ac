"""Prompts with their answers, side by side: what a model takes in one pass.

Rows are padded on the left, so that all answers end in the last column and only the last logits are needed.
A picture is seen once, however often it stands in the rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from prismrec.sequential.processor import Family, Pixels, Tokens, family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Rows:
    """Prompts with answers, padded on the left.

    Parameters
    ----------
    ids
        Tokens, int64, shape ``(rows, n)``.
    mask
        1 where a token stands, 0 where none does, shape ``(rows, n)``.
    seen
        1 where a picture stands, shape ``(rows, n)``.
    answer
        Which tokens belong to the answer, bool, shape ``(rows, n)``.
    pixels
        Distinct pictures, one after the other as the eyes take them; None if there is none.
    grids
        Of each distinct picture, shape ``(pictures, 3)``; None where the family has none.
    shown
        Which picture stands at each place, row by row, shape ``(places,)``.
    """

    ids: Tensor
    mask: Tensor
    seen: Tensor
    answer: Tensor
    pixels: Tensor | None
    grids: Tensor | None
    shown: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Rows":
        """Return the rows on a device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return Rows(
            move(self.ids),
            move(self.mask),
            move(self.seen),
            move(self.answer),
            None if self.pixels is None else move(self.pixels),
            None if self.grids is None else move(self.grids),
            move(self.shown),
        )


def collate(
    prompts: Sequence[Tokens],
    answers: Sequence[Tensor],
    pictures: Mapping[int, Pixels],
    pad: int,
) -> Rows:
    """Put prompts and answers side by side.

    Parameters
    ----------
    prompts, answers
        One each a row; an answer may be empty.
    pictures
        By item; all that the prompts show.
    pad
        Token that fills up.

    Returns
    -------
    Rows
    """
    lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    shape = (len(prompts), max(lengths))
    ids = torch.full(shape, pad, dtype=torch.int64)
    mask, seen = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int32)
    of_answer = torch.zeros(shape, dtype=torch.bool)
    for row, (prompt, answer, length) in enumerate(zip(prompts, answers, lengths, strict=True)):
        start = shape[1] - length
        ids[row, start:] = torch.cat((prompt.ids, answer))
        seen[row, start : start + len(prompt)] = prompt.seen
        mask[row, start:] = 1
        of_answer[row, shape[1] - len(answer) :] = True
    order: dict[int, int] = {}
    shown = [order.setdefault(item, len(order)) for prompt in prompts for item in prompt.pictures]
    distinct = [pictures[item] for item in order]
    grids = [p.grid for p in distinct if p.grid is not None]
    return Rows(
        ids,
        mask,
        seen,
        of_answer,
        torch.cat([p.values for p in distinct]) if distinct else None,
        torch.cat(grids) if grids else None,
        torch.tensor(shown, dtype=torch.int64),
    )


def positions(model: "PreTrainedModel", rows: Rows) -> tuple[Tensor, Tensor]:
    """Return the positions of tokens, and by how much the next position differs from the number of tokens.

    Qwen gives the tokens of a picture positions in a plane, so that text after a picture goes on earlier than
    its number of tokens says.

    Parameters
    ----------
    model
        Without adapters around it.
    rows
        Padded on the left.

    Returns
    -------
    positions
        Shape ``(rows, n)``, for Qwen ``(3, rows, n)``.
    shift
        Shape ``(rows, 1)``.
    """
    plain = (rows.mask.cumsum(dim=1) - 1).clamp(min=0)
    none = torch.zeros(len(rows), 1, dtype=torch.int64, device=rows.ids.device)
    if family_of(model.config) is not Family.QWEN:
        return plain, none
    if rows.grids is None:
        return plain.expand(3, -1, -1), none
    core: Any = model.model
    found, shift = core.get_rope_index(
        rows.ids, rows.seen, image_grid_thw=rows.grids[rows.shown], attention_mask=rows.mask
    )
    return found, shift.reshape(-1, 1)


def picture_inputs(model: "PreTrainedModel", rows: Rows) -> dict[str, Any]:
    """Let the model's eyes see each distinct picture once; return what its forward pass takes for them."""
    if rows.pixels is None:
        return {}
    eyes: Any = model
    if rows.grids is None:
        once = eyes.get_image_features(
            rows.pixels,
            vision_feature_layer=model.config.vision_feature_layer,
            vision_feature_select_strategy=model.config.vision_feature_select_strategy,
            return_dict=True,
        )
    else:
        once = eyes.get_image_features(rows.pixels, rows.grids, return_dict=True)
    where = rows.shown.tolist()
    once.pooler_output = tuple(once.pooler_output[i] for i in where)
    deep = getattr(once, "deepstack_features", None)
    if deep is not None:
        once.deepstack_features = [tuple(layer[i] for i in where) for layer in deep]
    inputs: dict[str, Any] = {"mm_encoder_outputs": {"image": once}}
    if rows.grids is not None:
        inputs["image_grid_thw"] = rows.grids[rows.shown]
        inputs["mm_token_type_ids"] = rows.seen
    return inputs


def bare(model: Any) -> Any:
    """Return a model without what processes and adapters put around it."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def answer_logits(model: Any, rows: Rows, *, longest: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Run the model and return the logits that foretell the answers.

    Parameters
    ----------
    model
        With or without adapters.
    rows
        What it reads.
    longest
        Last columns to return; None: as many as the longest answer has.

    Returns
    -------
    logits
        float32, shape ``(rows, longest, vocabulary)``.
    targets
        The tokens that stand there, shape ``(rows, longest)``.
    mask
        Which of them belong to the answer, bool, of that shape.
    """
    base = bare(model)
    if longest is None:
        longest = max(int(rows.answer.sum(dim=1).max()), 1)
    outputs = model(
        input_ids=rows.ids,
        attention_mask=rows.mask,
        position_ids=positions(base, rows)[0],
        use_cache=False,
        logits_to_keep=longest + 1,
        **picture_inputs(base, rows),
    )
    return outputs.logits[:, :-1].float(), rows.ids[:, -longest:], rows.answer[:, -longest:]


def log_probs(logits: Tensor, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the log-probabilities of the answers' tokens.

    Parameters
    ----------
    logits, targets, mask
        As `answer_logits` returns them.

    Returns
    -------
    sums
        Shape ``(rows,)``.
    counts
        Number of tokens of each answer, shape ``(rows,)``.
    """
    # cross_entropy does not write the whole log-softmax down.
    each = -functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return (each * mask).sum(dim=1), mask.sum(dim=1)
