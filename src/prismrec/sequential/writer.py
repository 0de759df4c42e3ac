"""Examples to tokens: prompts with pictures that fit the context, and answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from prismrec.base.errors import InputError
from prismrec.data.media import Media
from prismrec.data.pictures import PictureError, decode_image
from prismrec.sequential.examples import Example, Task
from prismrec.sequential.processor import Pixels, PromptProcessor, Tokens
from prismrec.sequential.prompts import Template, answer, build_prompt

# Posters of a training set; a step needs a hundred at most.
_KEPT_PICTURES = 4096


@dataclass(frozen=True)
class Shelf:
    """What is known of the items that a prompt may name.

    Parameters
    ----------
    ids
        Item ids; an item's code is its place.
    titles
        How each is called in prompts, each title once.
    pictures
        Encoded pictures by id; None where there are none.
    """

    ids: Sequence[str]
    titles: Sequence[str]
    pictures: Media | None = None


@dataclass
class Remarks:
    """What happened to prompts on the way; nothing of it is silent.

    Parameters
    ----------
    prompts
        Prompts that were written.
    tokens, most_tokens
        Their tokens, all together and of the longest.
    shortened
        Prompts whose history was cut at its beginning.
    unreadable
        Items whose picture could not be read; they stand with their title alone.
    without_eyes
        Pictures that a model without eyes was not shown.
    """

    prompts: int = 0
    tokens: int = 0
    most_tokens: int = 0
    shortened: int = 0
    unreadable: set[str] = field(default_factory=set)
    without_eyes: int = 0


class Writer:
    """Writes prompts and answers for one model.

    Parameters
    ----------
    task
        What is asked.
    template
        In which words.
    noun, plural
        What the items are.
    shelf
        The items.
    processor
        Of the model.
    max_tokens
        Longest prompt with its answer.
    """

    def __init__(
        self,
        task: Task,
        template: Template,
        noun: str,
        plural: str,
        shelf: Shelf,
        processor: PromptProcessor,
        max_tokens: int,
    ) -> None:
        self.task, self.template, self.noun, self.plural = task, template, noun, plural
        self.shelf, self.processor, self.max_tokens = shelf, processor, max_tokens
        self.remarks = Remarks()
        self._has = set(shelf.pictures.ids) if shelf.pictures is not None else set()
        self._pixels: dict[int, Pixels | None] = {}

    def prompt(self, example: Example, room: int) -> Tokens:
        """Write an example's prompt; cut its history at the beginning until it fits.

        Parameters
        ----------
        example
            The question.
        room
            Tokens to leave for the answer.

        Returns
        -------
        Tokens

        Raises
        ------
        InputError
            If it does not fit with the last item of the history alone.
        """
        for shown in range(len(example.history), 0, -1):
            tokens = self._written(example, shown)
            if len(tokens) + room <= self.max_tokens:
                self._note(tokens, example, shown)
                return tokens
        raise InputError(
            f"The prompt of user {example.user!r} takes {len(tokens) + room:,} tokens with one item of its "
            f"history; max_tokens is {self.max_tokens:,}.",
            "Raise max_tokens, take fewer candidates, or smaller pictures (max_pixels).",
        )

    def answer(self, items: Sequence[int], label: bool | None = None) -> Tensor:
        """Write an answer with the token that ends it, shape ``(n,)``."""
        return self.processor.answer(self.text(items, label))

    def text(self, items: Sequence[int], label: bool | None = None) -> str:
        """Return an answer in words."""
        return answer(self.template, self.task, items, self.shelf.titles, label)

    def pictures(self, prompts: Sequence[Tokens]) -> Mapping[int, Pixels]:
        """Return the pictures that prompts show."""
        shown = {item for prompt in prompts for item in prompt.pictures}
        found = {item: self._picture(item) for item in sorted(shown)}
        return {item: pixels for item, pixels in found.items() if pixels is not None}

    def _written(self, example: Example, shown: int) -> Tokens:
        history = example.history[-shown:]
        has = {
            item: self.shelf.ids[item] in self._has and self._seen(item) is not None for item in set(history)
        }
        with_picture = np.zeros(len(self.shelf.ids), dtype=np.bool_)
        with_picture[[item for item in has if has[item]]] = True
        prompt = build_prompt(
            self.template,
            self.task,
            example,
            self.shelf.titles,
            with_picture,
            self.noun,
            self.plural,
            history=shown,
        )
        pictures = {item: pixels for item in has if has[item] and (pixels := self._seen(item)) is not None}
        return self.processor.prompt(prompt, pictures)

    def _seen(self, item: int) -> Pixels | None:
        return self._picture(item) if self.processor.sees else None

    def _picture(self, item: int) -> Pixels | None:
        if item in self._pixels:
            return self._pixels[item]
        name = self.shelf.ids[item]
        content = self.shelf.pictures.read(name) if self.shelf.pictures is not None else None
        pixels = None
        if content is not None:
            try:
                pixels = self.processor.pixels(decode_image(content))
            except PictureError:
                self.remarks.unreadable.add(name)
        if len(self._pixels) >= _KEPT_PICTURES:
            self._pixels.pop(next(iter(self._pixels)))
        self._pixels[item] = pixels
        return pixels

    def _note(self, tokens: Tokens, example: Example, shown: int) -> None:
        remarks = self.remarks
        remarks.prompts += 1
        remarks.tokens += len(tokens)
        remarks.most_tokens = max(remarks.most_tokens, len(tokens))
        remarks.shortened += shown < len(example.history)
        if not self.processor.sees:
            history = example.history[-shown:]
            remarks.without_eyes += sum(self.shelf.ids[item] in self._has for item in history)
