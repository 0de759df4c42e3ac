"""From a prompt to tokens: a tokenizer, a picture processor and a chat template, and nothing besides.

`transformers` has a processor for each family, but the one of Qwen2.5-VL also wants a video processor, which
wants a package that has no build for every machine. It takes prompts as one string, too, in which a title
could write markers of the template. Here the template and what people wrote are tokenised apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prismrec.base.errors import InputError
from prismrec.data.pictures import PictureError
from prismrec.features.pretrained_source import first_line
from prismrec.sequential.prompts import Picture, Prompt, Text

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedTokenizerBase

# Any text that no template writes; it stands for the prompt while the template is applied.
_HERE, _THERE = "\u2402prompt\u2403", "\u2402answer\u2403"


class Family(StrEnum):
    """How a model sees: Qwen's way, LLaVA's way, or not at all."""

    QWEN = "qwen"
    LLAVA = "llava"
    TEXT = "text"


_QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
_LLAVA = ("llava",)


def family_of(config: Any) -> Family:
    """Return the family of a model's configuration.

    Raises
    ------
    InputError
        If it sees pictures in a way that is not known here.
    """
    if config.model_type in _QWEN:
        return Family.QWEN
    if config.model_type in _LLAVA:
        return Family.LLAVA
    if getattr(config, "vision_config", None) is not None:
        raise InputError(
            f"Models of the type {config.model_type!r} see pictures in a way that is not known here.",
            f"Use one of {', '.join((*_QWEN, *_LLAVA))}, or a model that reads text only.",
        )
    return Family.TEXT


@dataclass(frozen=True)
class Pixels:
    """A picture as the model's eyes take it.

    Parameters
    ----------
    values
        For Qwen shape ``(patches, values)``, for LLaVA ``(1, 3, height, width)``.
    grid
        For Qwen the numbers of patches in time, height and width, shape ``(1, 3)``; otherwise None.
    tokens
        How many tokens it takes in a prompt.
    """

    values: Tensor
    grid: Tensor | None
    tokens: int


@dataclass(frozen=True)
class Tokens:
    """A prompt as tokens.

    Parameters
    ----------
    ids
        int64, shape ``(n,)``.
    seen
        1 where a picture stands, otherwise 0, shape ``(n,)``.
    pictures
        Items whose pictures stand there, in order; one item may come twice.
    """

    ids: Tensor
    seen: Tensor
    pictures: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)


class PromptProcessor:
    """Writes prompts and answers as tokens, and pictures as pixels.

    Parameters
    ----------
    tokenizer
        With a chat template, or without: then the prompt stands alone before its answer.
    eyes
        Picture processor; None for a model without eyes.
    config
        The model's configuration.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", eyes: Any, config: Any) -> None:
        self.tokenizer: Any = tokenizer
        self.eyes = eyes
        self.family = family_of(config)
        self.pad = _pad(tokenizer)
        self._markers = frozenset(int(i) for i in tokenizer.added_tokens_decoder)
        self._end = self._end_of_answer()
        if self.family is Family.QWEN:
            self._before, self._token, self._after = (
                [config.vision_start_token_id],
                int(config.image_token_id),
                [config.vision_end_token_id],
            )
        elif self.family is Family.LLAVA:
            self._before, self._token, self._after = [], int(config.image_token_id), []
            side = config.vision_config.image_size // config.vision_config.patch_size
            whole = config.vision_feature_select_strategy == "full"
            self._llava_tokens = side * side + (1 if whole else 0)

    @property
    def sees(self) -> bool:
        """Whether pictures reach the model."""
        return self.family is not Family.TEXT

    def pixels(self, picture: "Image") -> Pixels:
        """Return a picture as the model's eyes take it.

        Raises
        ------
        PictureError
            If they do not: Qwen's refuse a strip that is more than 200 times as long as it is wide.
        """
        try:
            made = self.eyes(images=[picture], return_tensors="pt")
        except ValueError as error:
            raise PictureError(f"not taken by the model ({first_line(error)})") from error
        if self.family is Family.LLAVA:
            return Pixels(made["pixel_values"], None, self._llava_tokens)
        grid = made["image_grid_thw"]
        return Pixels(made["pixel_values"], grid, int(grid.prod()) // self.eyes.merge_size**2)

    def prompt(self, prompt: Prompt, pictures: Mapping[int, Pixels]) -> Tokens:
        """Write a prompt, up to where the answer begins.

        Parameters
        ----------
        prompt
            What to write. Titles in it are text, whatever they look like: no marker is read out of them.
        pictures
            By item. A picture that is not among them is left out.

        Returns
        -------
        Tokens
        """
        before, after = self._around(prompt.system)
        ids, seen, shown = list(before), [0] * len(before), []
        for part in _joined(prompt.parts):
            if isinstance(part, Text):
                written = self._plain(part.text)
                ids += written
                seen += [0] * len(written)
            elif part.item in pictures and self.sees:
                count = pictures[part.item].tokens
                ids += [*self._before, *([self._token] * count), *self._after]
                seen += [0] * len(self._before) + [1] * count + [0] * len(self._after)
                shown.append(part.item)
        ids += after
        seen += [0] * len(after)
        return Tokens(torch.tensor(ids), torch.tensor(seen, dtype=torch.int32), tuple(shown))

    def answer(self, text: str, *, ends: bool = True) -> Tensor:
        """Write an answer, int64, shape ``(n,)``; with the token that ends it if `ends`."""
        return torch.tensor([*self._plain(text), *([self._end] if ends else [])])

    def read(self, ids: Sequence[int]) -> str:
        """Return what tokens say, markers left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    @property
    def end(self) -> int:
        """The token that ends an answer."""
        return self._end

    def save(self, folder: Path) -> None:
        """Save tokenizer and picture processor beside the model."""
        self.tokenizer.save_pretrained(folder)
        if self.eyes is not None:
            self.eyes.save_pretrained(folder)

    def _plain(self, text: str) -> list[int]:
        ids = self._unmarked(text)
        if not self._markers.isdisjoint(ids):
            # Markers that the tokenizer does not count as special, <tool_call> say, are read all the same.
            ids = [i for character in text for i in self._unmarked(character)]
        return ids

    def _unmarked(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return [int(i) for i in ids]

    def _marked(self, text: str) -> list[int]:
        return [int(i) for i in self.tokenizer(text, add_special_tokens=False).input_ids]

    def _around(self, system: str) -> tuple[list[int], list[int]]:
        """Return what the template writes before and after the prompt."""
        if self.tokenizer.chat_template is None:
            start = self.tokenizer.bos_token_id
            # A system text of a user's own template; no title reaches it.
            head = self._plain(f"{system}\n") if system else []
            return ([] if start is None else [start]) + head, self._plain("\n")
        turns = [{"role": "system", "content": system}] if system else []
        text = self._render([*turns, {"role": "user", "content": _HERE}], answer_follows=True)
        pieces = text.split(_HERE)
        if len(pieces) != 2:
            raise InputError(
                "The model's chat template does not write the prompt exactly once.",
                "Use a model whose template takes a user's turn, or one without a template.",
            )
        return self._marked(pieces[0]), self._marked(pieces[1])

    def _render(self, turns: list[dict[str, str]], *, answer_follows: bool) -> str:
        from jinja2 import TemplateError

        # Plain strings first: a template that wants them writes a list of parts as Python would show it.
        parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
        problems = []
        for given in (turns, parts):
            try:
                rendered: str = self.tokenizer.apply_chat_template(
                    given, tokenize=False, add_generation_prompt=answer_follows
                )
            # What the template itself raises, and what it runs into.
            except (TemplateError, TypeError, ValueError, KeyError) as error:
                problems.append(first_line(error))
                continue
            left_out = [turn["role"] for turn in turns if turn["content"].strip() not in rendered]
            if not left_out:
                return rendered
            problems.append(f"it leaves out what the {left_out[0]} says")
        raise InputError(
            f"The model's chat template cannot write {' and '.join(turn['role'] for turn in turns)} "
            f"({problems[0]}).",
            "If it has no place for a system text, put that into the prompt's own words.",
        )

    def _end_of_answer(self) -> int:
        """Return the first marker the template writes after an answer; without one, the tokenizer's end."""
        end = self.tokenizer.eos_token_id
        if self.tokenizer.chat_template is not None:
            text = self._render(
                [{"role": "user", "content": _HERE}, {"role": "assistant", "content": _THERE}],
                answer_follows=False,
            )
            special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
            for token in self._marked(text.rpartition(_THERE)[2]):
                if token in special:
                    return token
        if end is None:
            raise InputError("The tokenizer has no token that ends an answer.", "Give it an eos_token.")
        return int(end)


def _pad(tokenizer: Any) -> int:
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _joined(parts: Sequence[Text | Picture]) -> list[Text | Picture]:
    """Put neighbouring texts together, so that where a part ends leaves no trace in the tokens."""
    joined: list[Text | Picture] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, Text) and isinstance(last, Text):
            joined[-1] = Text(last.text + part.text)
        else:
            joined.append(part)
    return joined
