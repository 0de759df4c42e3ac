"""The protocols at inference: what is damaged, how much, and beside which control."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from prismrec.evaluation.adversary import attack, why_not
from prismrec.evaluation.corruption import (
    DamagedFeatures,
    Filling,
    Missing,
    Noise,
    Shifted,
    Statistics,
    Swapped,
    hidden_modality,
)
from prismrec.evaluation.robustness import Experiment, Subject, Values, Variant
from prismrec.evaluation.robustness_result import Protocol

SIGMAS = (0.1, 0.3, 0.5, 1.0)
SWAPPED = (0.05, 0.1, 0.2, 0.3, 0.5)
LACKING = (0.1, 0.3, 0.5, 0.7, 0.9)
BALLS = (0.01, 0.03, 0.1, 0.3)

_OF_CONTENT = {
    Protocol.NOISE: "Noise",
    Protocol.SWAP: "Swapped content",
    Protocol.MISSING: "Missing content",
    Protocol.ADVERSARIAL: "Adversarial content",
}


def experiments(subject: Subject, protocols: Sequence[Protocol]) -> list[Experiment]:
    """Return what to measure for the protocols at inference, apart from "degree" and "flatness"."""
    modalities = subject.data.features.names
    reason = None
    if not subject.model.config.uses_content:
        reason = "not applicable: the model reads no content"
    elif not modalities:
        reason = "not applicable: the run has no features"
    if reason is not None:
        return [_skipped(protocol, reason) for protocol in protocols if protocol in _OF_CONTENT]
    statistics = Statistics.of(subject.data.features, subject.data.warm)
    found: list[Experiment] = []
    for protocol in protocols:
        if protocol is Protocol.NOISE:
            found += _noise(subject, statistics)
        elif protocol is Protocol.SWAP:
            found.append(_swap(subject))
        elif protocol is Protocol.MISSING:
            found += _missing(subject, statistics)
        elif protocol is Protocol.ADVERSARIAL:
            found.append(_adversarial(subject))
    return found


def _noise(subject: Subject, statistics: Statistics) -> list[Experiment]:
    features = subject.data.features
    found = []
    for name, places in _selections(features.names):

        def made(shared: bool, places: Sequence[int] = places) -> Callable[[float, int], Values]:
            def values(sigma: float, seed: int) -> Values:
                return subject.under(Noise(features, statistics, sigma, places, seed, shared=shared))

            return values

        found.append(
            Experiment(
                Protocol.NOISE,
                f"Noise, {name}",
                "noise, % of a dimension's standard deviation",
                "Gaussian noise on each dimension. The control moves each item as far, all in one direction.",
                SIGMAS,
                (Variant("noise", made(False)), Variant("same shift for all", made(True), control=True)),
            )
        )
    return found


def _swap(subject: Subject) -> Experiment:
    def swapped(share: float, seed: int) -> Values:
        return subject.under(Swapped(subject.data.features, share, seed))

    def without(share: float, seed: int) -> Values:
        return subject.under(Swapped(subject.data.features, share, seed).without())

    return Experiment(
        Protocol.SWAP,
        "Swapped content",
        "% of the items",
        "Items have each other's content, all modalities together. The control takes the content of the "
        "same items away: what wrong content does beyond missing content is the difference.",
        SWAPPED,
        (Variant("swapped", swapped), Variant("same items without content", without, control=True)),
    )


def _missing(subject: Subject, statistics: Statistics) -> list[Experiment]:
    data = subject.data
    found = []
    for place, name in enumerate(data.features.names):

        def made(filling: Filling, place: int = place) -> Callable[[float, int], Values]:
            def values(share: float, seed: int) -> Values:
                hidden = hidden_modality(data.features, place, share, seed)
                return subject.under(Missing(data.features, hidden, filling, statistics, data.warm))

            return values

        # The mean comes first among the controls: it is what masked content is tested against.
        fillings = [Filling.MASKED, Filling.MEAN, Filling.ZERO]
        if len(data.features.names) > 1:
            fillings.append(Filling.NEIGHBOURS)
        found.append(
            Experiment(
                Protocol.MISSING,
                f"Missing {name}",
                "% of the items that have it",
                f"Items lose their {name}. masked: the model is told. The others are controls in which it "
                "is not told, and zeros, the mean of the training items, or the mean of the nearest ones by "
                "other content stand in its place.",
                LACKING,
                tuple(Variant(str(f), made(f), control=f is not Filling.MASKED) for f in fillings),
            )
        )
    return found


def _adversarial(subject: Subject) -> Experiment:
    data = subject.data
    reason = why_not(subject.model, data.features, subject.candidates)

    @lru_cache(maxsize=1)
    def found(radius: float, seed: int) -> tuple[DamagedFeatures, DamagedFeatures]:
        attacked = attack(subject.model, data, subject.candidates, radius, seed=seed)
        twin = attacked.random_twin(seed)
        return (
            Shifted(data.features, attacked.codes, attacked.shifts, f"attack {radius} {seed}"),
            Shifted(data.features, attacked.codes, twin, f"random {radius} {seed}"),
        )

    return Experiment(
        Protocol.ADVERSARIAL,
        "Adversarial content",
        "radius, % of the length of an item's vector",
        "Each ranked item's content moves within a ball so that the BPR loss rises (10 steps of projected "
        "gradient ascent; no held-out pair is read). The control moves each item as far at random.",
        BALLS,
        (
            Variant("adversarial", lambda radius, seed: subject.under(found(radius, seed)[0])),
            Variant("random direction", lambda radius, seed: subject.under(found(radius, seed)[1]), True),
        ),
        reason,
    )


def _selections(names: Sequence[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for place, name in enumerate(names):
        yield name, (place,)
    if len(names) != 1:
        yield "all modalities", tuple(range(len(names)))


def _skipped(protocol: Protocol, reason: str) -> Experiment:
    return Experiment(protocol, _OF_CONTENT[protocol], "", "", skipped=reason)
