"""What a language model is taught: examples with their answers, and batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from prismrec.sequential.examples import Example
from prismrec.sequential.pairs import Pair
from prismrec.sequential.processor import Tokens
from prismrec.sequential.rows import Rows, collate
from prismrec.sequential.writer import Writer


@dataclass(frozen=True)
class Lesson:
    """One example with its answers.

    Parameters
    ----------
    example
        The question.
    answers
        Tokens of the right answer, and after it of wrong ones.
    weights
        Hardness weight of each wrong answer, shape ``(len(answers) - 1,)``.
    """

    example: Example
    answers: tuple[Tensor, ...]
    weights: Tensor


class Lessons(TorchDataset[Lesson]):
    """Lessons in their order."""

    def __init__(self, lessons: Sequence[Lesson]) -> None:
        self.lessons = list(lessons)

    def __len__(self) -> int:
        return len(self.lessons)

    def __getitem__(self, index: int) -> Lesson:
        return self.lessons[index]


def supervised_lessons(writer: Writer, examples: Sequence[Example]) -> Lessons:
    """Return examples with their right answers."""
    none = torch.zeros(0)
    return Lessons([Lesson(e, (writer.answer(e.positives, e.label),), none) for e in examples])


def preference_lessons(
    writer: Writer, examples: Sequence[Example], pairs: Sequence[Pair], weights: npt.NDArray[np.floating[Any]]
) -> Lessons:
    """Return examples with a right answer and wrong ones.

    Parameters
    ----------
    writer
        Of the model.
    examples
        What the pairs refer to.
    pairs
        The answers. For ``binary`` they are the words.
    weights
        Hardness weights, shape ``(pairs, wrong answers)``.
    """
    lessons = []
    for pair, row in zip(pairs, weights, strict=True):
        example = examples[pair.example]
        answers = [writer.answer(pair.chosen, example.label)]
        if example.label is not None:
            answers.append(writer.answer((), not example.label))
        answers += [writer.answer(wrong) for wrong in pair.rejected]
        lessons.append(Lesson(example, tuple(answers), torch.from_numpy(np.asarray(row, dtype=np.float32))))
    return Lessons(lessons)


@dataclass(frozen=True)
class Batch:
    """Rows, example by example, and the hardness weights of the pairs."""

    rows: Rows
    weights: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Return the batch on a device."""
        return Batch(self.rows.to(device, non_blocking), self.weights.to(device, non_blocking=non_blocking))


class Collator:
    """Makes batches of lessons for a model.

    Parameters
    ----------
    writer
        Of the model.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def __call__(self, lessons: list[Lesson]) -> dict[str, Batch]:
        """Return what a training step takes."""
        prompts: list[Tokens] = []
        answers: list[Tensor] = []
        for lesson in lessons:
            room = max(len(answer) for answer in lesson.answers)
            prompt = self.writer.prompt(lesson.example, room)
            prompts += [prompt] * len(lesson.answers)
            answers += lesson.answers
        rows = collate(prompts, answers, self.writer.pictures(prompts), self.writer.processor.pad)
        return {"batch": Batch(rows, torch.stack([lesson.weights for lesson in lessons]))}
