"""A loss on fixed batches as a function of parameters, with gradients and products with its Hessian."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from prismrec.base.errors import InputError
from prismrec.base.files import digest

Vector = list[Tensor]
"""One tensor a parameter."""

# Of the weights' length: far enough that float32 sees the gradient change, near enough for it to be linear.
_DIFFERENCE = 3e-3
# Two ways to a Hessian-vector product that differ by more than this are not the same function.
_AGREE = 0.2


class Landscape:
    """A loss on fixed batches as a function of some parameters.

    Every evaluation sees the same random numbers: torch's global generator is seeded before each batch and
    put back afterwards. Whatever is tried, the parameters are afterwards what they were, bit for bit.

    Parameters
    ----------
    parameters
        By name; those that do not require a gradient are left out.
    losses
        One function a batch; the loss is their mean.
    seed
        Of what is random in the loss, and of directions.

    Raises
    ------
    InputError
        If there is no parameter or no batch.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], losses: Sequence[Callable[[], Tensor]], seed: int = 0
    ) -> None:
        self.parameters = {name: p for name, p in parameters.items() if p.requires_grad}
        if not self.parameters or not losses:
            raise InputError("A loss surface needs a parameter and a batch.")
        self._losses = tuple(losses)
        self._seed = seed
        self._second_order: bool | None = None

    @property
    def by_differences(self) -> bool:
        """Whether Hessian-vector products come from differences of gradients; known after the first one."""
        return self._second_order is False

    def loss(self) -> float:
        """Return the loss as the parameters are."""
        with torch.no_grad():
            return sum(float(value) for value in self._each()) / len(self._losses)

    def gradient(self) -> Vector:
        """Return the gradient, one tensor a parameter."""
        total = [torch.zeros_like(p) for p in self._own]
        for value in self._each():
            for whole, part in zip(total, self._derived(value), strict=True):
                whole.add_(part, alpha=1.0 / len(self._losses))
        return total

    def loss_at(self, step: Vector) -> float:
        """Return the loss after a step."""
        with self._moved(step):
            return self.loss()

    def curved(self, vector: Vector) -> Vector:
        """Return the Hessian times a vector.

        By differentiating twice; where that cannot be done, or misses part of the loss (functions with a
        derivative of their own may hide it), by the central difference of two gradients. Which, is found out
        the first time.
        """
        if self._second_order is None:
            differences = self._by_differences(vector)
            twice = self._by_differentiating(vector)
            apart = math.inf if twice is None else norm(added(twice, differences, -1.0))
            self._second_order = apart <= _AGREE * max(norm(differences), 1e-12)
            return twice if self._second_order and twice is not None else differences
        twice = self._by_differentiating(vector) if self._second_order else None
        return self._by_differences(vector) if twice is None else twice

    def row_lengths(self) -> Vector:
        """Return, for each parameter, the length of each row, in the parameter's shape.

        Rows are along the first dimension; a parameter of one dimension is one row. A row of zeros has the
        length 0, and nothing relative to it moves.
        """
        lengths = []
        for p in self._own:
            flat = in_rows(p.detach())
            rows = flat.norm(dim=1, keepdim=True).expand_as(flat)
            lengths.append(rows.reshape(p.shape).clone())
        return lengths

    def random_signs(self, generator: torch.Generator) -> Vector:
        """Return a vector of plus and minus ones."""
        return [torch.randint(0, 2, p.shape, generator=generator).to(p.dtype) * 2.0 - 1.0 for p in self._own]

    def random_normal(self, generator: torch.Generator) -> Vector:
        """Return a vector of normal numbers."""
        return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in self._own]

    def generator(self) -> torch.Generator:
        """Return a generator of directions."""
        return torch.Generator().manual_seed(self._seed)

    @property
    def _own(self) -> list[nn.Parameter]:
        return list(self.parameters.values())

    def _each(self) -> Iterator[Tensor]:
        for number, loss in enumerate(self._losses):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(digest(f"{self._seed}/{number}".encode())[:15], 16))
                value = loss()
            yield value

    def _derived(self, value: Tensor, graph: bool = False) -> Vector:
        found = torch.autograd.grad(value, self._own, create_graph=graph, allow_unused=True)
        dense = [torch.zeros_like(p) if g is None else g for p, g in zip(self._own, found, strict=True)]
        return [g.to_dense() if g.is_sparse else g for g in dense]

    def _by_differentiating(self, vector: Vector) -> Vector | None:
        total = [torch.zeros_like(p) for p in self._own]
        try:
            for value in self._each():
                slopes = self._derived(value, graph=True)
                product = torch.stack([(g * v).sum() for g, v in zip(slopes, vector, strict=True)]).sum()
                if product.requires_grad:
                    for whole, part in zip(total, self._derived(product), strict=True):
                        whole.add_(part, alpha=1.0 / len(self._losses))
        except RuntimeError:
            # What torch raises where a function has no second derivative.
            return None
        return total

    def _by_differences(self, vector: Vector) -> Vector:
        length = norm(vector)
        if length == 0:
            return [torch.zeros_like(v) for v in vector]
        step = _DIFFERENCE * max(norm([p.detach() for p in self._own]), 1.0) / length
        with self._moved(scaled_by(vector, step)):
            ahead = self.gradient()
        with self._moved(scaled_by(vector, -step)):
            behind = self.gradient()
        return scaled_by(added(ahead, behind, -1.0), 0.5 / step)

    @contextmanager
    def _moved(self, step: Vector) -> Iterator[None]:
        kept = [p.detach().clone() for p in self._own]
        with torch.no_grad():
            for p, part in zip(self._own, step, strict=True):
                p.add_(part)
        try:
            yield
        finally:
            # Copied back, not subtracted again: that would change the last bits.
            with torch.no_grad():
                for p, old in zip(self._own, kept, strict=True):
                    p.copy_(old)


def in_rows(values: Tensor) -> Tensor:
    """Return a parameter's values as a matrix, a row for each of its rows; of one dimension it is one row."""
    return values.flatten(1) if values.ndim > 1 else values.reshape(1, -1)


def scaled_by(vector: Vector, factor: float) -> Vector:
    """Return a vector times a number."""
    return [part * factor for part in vector]


def added(one: Vector, other: Vector, factor: float) -> Vector:
    """Return ``one + factor * other``."""
    return [a + factor * b for a, b in zip(one, other, strict=True)]


def dot(one: Vector, other: Vector) -> float:
    """Return the dot product, added up in double precision."""
    return float(sum(float((a.double() * b.double()).sum()) for a, b in zip(one, other, strict=True)))


def norm(vector: Vector) -> float:
    """Return the length."""
    return math.sqrt(dot(vector, vector))


def unit(vector: Vector) -> Vector:
    """Return the vector brought to length 1; 0 stays."""
    return scaled_by(vector, 1.0 / max(norm(vector), 1e-30))
