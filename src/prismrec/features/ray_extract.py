"""Extraction on a Ray cluster: actors read and encode parts, the driver keeps what they give."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

from prismrec.base.errors import InputError, PrismError
from prismrec.base.ray_crew import RETRIES, Crew, Died
from prismrec.base.ray_session import RayCluster
from prismrec.data.catalog_media import lies_outside
from prismrec.data.media import Media
from prismrec.features.contents import Contents
from prismrec.features.encoder import Encoder, Vectors
from prismrec.features.engine import EncodedPart, Part, content_digest
from prismrec.features.open import make_encoder
from prismrec.features.pretrained import Precision, PretrainedEncoder

_CPU = "cpu"
_GPU = "cuda"
# Contents whose digests are asked for at a time: long enough that reading outweighs the asking.
_READ_AT_ONCE = 1024


@dataclass(frozen=True)
class RayEngine:
    """Extraction by actors.

    The actors read content where it lies (`lies_outside`), so that every machine has to reach it; content
    that is in the driver's memory only travels with the part. Pretrained encoders get a GPU each where the
    cluster has some, otherwise one actor a machine with all its CPUs; others get one CPU each.

    Parameters
    ----------
    cluster
        Connected.
    device
        Where pretrained encoders run: ``"cpu"``, ``"cuda"``, or None to take the GPUs that there are.
    part_size
        Contents that an actor encodes at a time, and that are lost with it at most.
    """

    cluster: RayCluster
    device: str | None = None
    part_size: int = 128

    @contextmanager
    def work(self, contents: Contents, encoder: Encoder[Any], key: str) -> Iterator["_Work"]:
        """Begin an extraction; actors start when there is something to do, and end with the block."""
        work = _Work(self, contents, encoder, key)
        try:
            yield work
        finally:
            if work.crew is not None:
                work.crew.close()

    def start(self, encoder: Encoder[Any], media: Media | None, key: str) -> "Crew[_Tools]":
        """Start the actors for an encoder."""
        pretrained = isinstance(encoder, PretrainedEncoder)
        device = _CPU
        if pretrained:
            device = self.device or (_GPU if self.cluster.gpus else _CPU)
        gpu = device != _CPU
        workers = self.cluster.workers or self._fitting(pretrained, gpu)
        threads = self.cluster.threads(workers)
        tools = _Tools(_portable(encoder), media, key, device)
        return self.cluster.start(tools, workers=workers, threads=threads, gpu=gpu)

    def _fitting(self, pretrained: bool, gpu: bool) -> int:
        if gpu:
            return max(1, self.cluster.gpus)
        # A pretrained model uses all cores for a batch, and a second one would only need more memory.
        return self.cluster.machines if pretrained else self.cluster.cpus


class _Work:
    """One extraction; see `prismrec.features.engine.Work`."""

    def __init__(self, engine: RayEngine, contents: Contents, encoder: Encoder[Any], key: str) -> None:
        self.crew: Crew[_Tools] | None = None
        self._engine = engine
        self._contents = contents
        self._encoder = encoder
        self._key = key
        media = contents.media
        self._media = media if media is not None and lies_outside(media) else None

    def digests(self) -> Iterator[tuple[str, str]]:
        """Yield each item with its content's digest; what lies in memory is not sent about for that."""
        ids = self._contents.ids
        if self._media is None:
            for item in ids:
                yield item, content_digest(self._key, self._contents.read(item))
            return
        parts = (ids[start : start + _READ_AT_ONCE] for start in range(0, len(ids), _READ_AT_ONCE))
        for part, found in self._done(parts, _digests):
            yield from zip(part, found, strict=True)

    def encoded(self, parts: Iterable[Part]) -> Iterator[EncodedPart]:
        """Yield each part encoded, as it comes in."""
        for part, (vectors, problems) in self._done(iter(parts), _encode, self._with_contents):
            yield part, vectors, problems

    def _with_contents(self, part: Part) -> "_Shipment":
        there = self._media is not None
        return _Shipment(part, None if there else [self._contents.read(item) for _, item in part])

    def _done(
        self, parts: Iterator[Any], task: Callable[["_Tools", Any], Any], message: Any = None
    ) -> Iterator[tuple[Any, Any]]:
        first = next(parts, None)
        if first is None:
            return
        if self.crew is None:
            self.crew = self._engine.start(self._encoder, self._media, self._key)
        parts = chain((first,), parts)
        for part, result in self.crew.work(lambda: next(parts, None), task, message):
            if isinstance(result, Died):
                names = [name if isinstance(name, str) else name[1] for name in part]
                raise PrismError(
                    f"The Ray worker that read and encoded the {self._encoder.kind} of {len(names):,} items, "
                    f"{names[0]!r} to {names[-1]!r}, died {RETRIES + 1} times ({result.reason}).",
                    "Often its memory was used up: try fewer --workers. Finished parts are kept; the same "
                    "command goes on from there.",
                )
            yield part, result


@dataclass(frozen=True)
class _Shipment:
    """A part, with its contents where an actor cannot read them for itself."""

    part: Part
    contents: Sequence[Any] | None


@dataclass
class _Tools:
    """What an actor reads and encodes with."""

    encoder: "Encoder[Any] | _Pretrained"
    media: Media | None
    key: str
    device: str

    def read(self, item: str) -> bytes:
        content = None if self.media is None else self.media.read(item)
        if content is None:
            raise InputError(
                f"The content of item {item!r} is listed and not there any more.", "Run it again."
            )
        return content

    def read_same(self, digest: str, item: str) -> bytes:
        """Read a content; a vector must never be kept under the digest of another content."""
        content = self.read(item)
        if content_digest(self.key, content) != digest:
            raise InputError(
                f"The content of item {item!r} has changed since it was looked at, or machines differ.",
                "All machines have to reach the same files, which nobody may change meanwhile; run it again.",
            )
        return content


def _digests(tools: _Tools, ids: Sequence[str]) -> list[str]:
    return [content_digest(tools.key, tools.read(item)) for item in ids]


def _encode(tools: _Tools, shipment: _Shipment) -> tuple[Vectors, list[str | None]]:
    contents = shipment.contents
    if contents is None:
        contents = [tools.read_same(*pair) for pair in shipment.part]
    # Not before it is needed: where all is encoded already, no model is loaded.
    if isinstance(tools.encoder, _Pretrained):
        tools.encoder = tools.encoder.open(tools.device)
    return tools.encoder.encode(contents)


@dataclass(frozen=True)
class _Pretrained:
    """A pretrained encoder without its weights: each machine opens them for itself."""

    kind: str
    asked: str
    revision: str
    batch_size: int
    precision: Precision

    def open(self, device: str) -> Encoder[Any]:
        return make_encoder(
            self.kind,
            self.asked,
            revision=self.revision,
            device=device,
            batch_size=self.batch_size,
            precision=self.precision,
        )


def _portable(encoder: Encoder[Any]) -> Encoder[Any] | _Pretrained:
    if not isinstance(encoder, PretrainedEncoder):
        return encoder
    source = encoder.source
    return _Pretrained(encoder.kind, source.asked, source.revision, encoder.batch_size, encoder.precision)
