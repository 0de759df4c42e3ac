"""What a tuning will take, computed from the sizes of model and questions. Estimates, and called so.

Memory counts weights, adapters with their gradients and Adam's two moments, and activations. Time counts
multiplications: two for each weight and token in a forward pass, four more for a backward pass through frozen
weights with activations computed again. What share of a processor's peak is reached is an assumption.
"""

from dataclasses import dataclass
from typing import Any

from prismrec.sequential.settings import Tuning

GIB = 1024**3


@dataclass(frozen=True)
class Shape:
    """Sizes of a language model with eyes.

    Parameters
    ----------
    width, layers, inner, vocabulary
        Of the language model: size of a token's vector, blocks, size inside a block, tokens.
    heads, key_heads, head
        Attention heads, those of keys and values, size of one.
    tied
        Whether reading and writing share one table.
    eyes
        Parameters of what sees.
    """

    width: int
    layers: int
    inner: int
    vocabulary: int
    heads: int
    key_heads: int
    head: int
    tied: bool
    eyes: int

    @staticmethod
    def of(config: Any, eyes: int = 0) -> "Shape":
        """Return the sizes in a configuration of transformers; `eyes` is counted from the model."""
        text = config.get_text_config()
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return Shape(
            text.hidden_size,
            text.num_hidden_layers,
            text.intermediate_size,
            text.vocab_size,
            text.num_attention_heads,
            text.num_key_value_heads,
            head,
            bool(config.tie_word_embeddings),
            eyes,
        )

    @property
    def linear(self) -> tuple[tuple[int, int], ...]:
        """Input and output sizes of the linear layers of one block."""
        queries, keys = self.heads * self.head, self.key_heads * self.head
        return (
            (self.width, queries),
            (self.width, keys),
            (self.width, keys),
            (queries, self.width),
            (self.width, self.inner),
            (self.width, self.inner),
            (self.inner, self.width),
        )

    @property
    def block(self) -> int:
        """Weights of the linear layers of one block; norms and biases are too few to count."""
        return sum(a * b for a, b in self.linear)

    @property
    def text(self) -> int:
        """Parameters of the language model, nearly."""
        return self.layers * self.block + self.vocabulary * self.width * (1 if self.tied else 2)

    def adapter(self, rank: int) -> int:
        """Parameters of adapters on all linear layers."""
        return self.layers * rank * sum(a + b for a, b in self.linear)


# As its published configuration says; its eyes have 669 million parameters.
QWEN25_VL_3B = Shape(2048, 36, 11008, 151_936, 16, 2, 128, True, 669_000_000)


@dataclass(frozen=True)
class Load:
    """What is to be read.

    Parameters
    ----------
    examples
        Training examples.
    prompt, answer
        Mean tokens of a prompt, pictures among them, and of an answer.
    seen
        Mean patches that the eyes take in for a prompt, four a token.
    answers
        Answers of an example: 1 for supervision; with preference the right one and the wrong ones.
    """

    examples: int
    prompt: float
    answer: float
    seen: float = 0.0
    answers: int = 1


@dataclass(frozen=True)
class Estimate:
    """Memory in bytes and time in seconds.

    Parameters
    ----------
    weights, trained, activations
        Bytes.
    operations
        Multiplications and additions of all epochs.
    seconds
        At the share of the peak that was assumed.
    """

    weights: float
    trained: float
    activations: float
    operations: float
    seconds: float

    @property
    def memory(self) -> float:
        """Bytes in all."""
        return self.weights + self.trained + self.activations

    def lines(self) -> list[str]:
        """Return what to show."""
        return [
            f"Estimate: {self.memory / GIB:.1f} GiB of memory (weights {self.weights / GIB:.1f}, what is "
            f"trained {self.trained / GIB:.2f}, activations {self.activations / GIB:.1f}).",
            f"Estimate: {self.operations:.2e} operations, {self.seconds / 3600:.1f} hours.",
        ]


def estimate(
    shape: Shape, tuning: Tuning, load: Load, *, peak: float = 989e12, share: float = 0.35
) -> Estimate:
    """Estimate a tuning.

    Parameters
    ----------
    shape
        The model.
    tuning
        How it is trained.
    load
        What it reads.
    peak
        Operations a second that the processor can do at best; the default is an H100 in bfloat16.
    share
        How much of that is reached: an assumption.
    """
    whole = shape.text + shape.eyes
    size = 0.55 if tuning.four_bit else (2 if tuning.precision == "bf16" and tuning.adapter.rank else 4)
    new = whole if tuning.adapter.rank == 0 else shape.adapter(tuning.adapter.rank)
    # A gradient and two moments in float32; an adapter has its own weights besides.
    trained = new * (12 if tuning.adapter.rank == 0 else 16)
    tokens = min(load.prompt + load.answer, tuning.max_tokens)
    rows = tuning.batch_size * load.answers
    return Estimate(
        whole * size,
        trained,
        _activations(shape, tuning, rows, tokens, load.answer),
        _operations(shape, tuning, load, tokens),
        _operations(shape, tuning, load, tokens) / (peak * share),
    )


def _activations(shape: Shape, tuning: Tuning, rows: int, tokens: float, answer: float) -> float:
    half = 2 if tuning.precision == "bf16" else 4
    # Within a block: inputs of its linear layers, attention's vectors, both halves of the inner layer.
    inside = rows * tokens * (6 * shape.width + 3 * shape.inner) * half
    kept = shape.layers * rows * tokens * shape.width * half + inside
    all_kept = shape.layers * inside
    logits = rows * answer * shape.vocabulary * 4 * 2
    return (kept if tuning.checkpointing else all_kept) + logits


def _operations(shape: Shape, tuning: Tuning, load: Load, tokens: float) -> float:
    attention = 4 * shape.layers * shape.heads * shape.head * tokens
    token = 2 * shape.layers * shape.block + attention
    row = tokens * token + load.answer * 2 * shape.vocabulary * shape.width
    # Forward, backward to the activations, forward again if they were not kept; all weights' own gradients
    # if all are trained.
    passes = 2 + tuning.checkpointing + (tuning.adapter.rank == 0)
    # The reference reads the same without a gradient.
    passes += load.answers > 1
    eyes = 2 * shape.eyes * load.seen * (1 if tuning.adapter.rank else 3)
    return tuning.epochs * load.examples * (load.answers * row * passes + eyes)
