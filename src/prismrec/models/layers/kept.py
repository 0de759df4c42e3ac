"""Results that are kept until what they were computed from changes."""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from torch import Tensor

ResultT = TypeVar("ResultT")


class Kept(Generic[ResultT]):
    """The latest result of a computation on tensors, so that asking again costs nothing.

    A model whose vectors come from a pass over a whole graph is asked for them in blocks, and needs the pass
    once only. Changes are told by the counters that torch raises with every operation in place, and by where
    tensors lie; writing into a tensor's memory through NumPy goes unnoticed.
    """

    def __init__(self) -> None:
        self._kept: tuple[object, ResultT] | None = None

    def of(self, tensors: Iterable[Tensor], compute: Callable[[], ResultT]) -> ResultT:
        """Return what `compute` gave for the tensors as they are.

        Parameters
        ----------
        tensors
            All that the result depends on, and that may change.
        compute
            Is called where there is no result yet, or a tensor has changed since.
        """
        state = [(tensor.device, tensor.data_ptr(), tensor._version) for tensor in tensors]
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, compute())
        return self._kept[1]

    def forget(self) -> None:
        """Drop the result and its memory."""
        self._kept = None
