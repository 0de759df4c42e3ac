"""What a bench will cost, said before it starts, and what is left while it runs.

Times come from runs that lie in the bench's folder. A model that never ran here has no known time: what an
epoch takes, and how many early stopping leaves, only its first run tells. It is said so, not guessed.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from prismrec.experiments.plan import RunSpec
from prismrec.experiments.results import RunNote

Kind = tuple[str, str, str]


@dataclass(frozen=True)
class Piece:
    """A run or a trial that is to be made."""

    data: str
    label: str
    model: str
    trials: int = 1


@dataclass
class Timings:
    """How long runs took, and how long others will."""

    _of_row: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    _of_model: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def saw(self, piece: Piece, seconds: float) -> None:
        """Take a finished run, or a trial, into account."""
        self._of_row[piece.data, piece.label].append(seconds)
        self._of_model[piece.data, piece.model].append(seconds)

    def one(self, piece: Piece) -> float | None:
        """Return the mean time of such a run: of the row, else of other rows of the model on this data."""
        known = self._of_row.get((piece.data, piece.label)) or self._of_model.get((piece.data, piece.model))
        return sum(known) / len(known) if known else None

    def total(self, pieces: Iterable[Piece]) -> tuple[float, list[Piece]]:
        """Return the seconds of all pieces that can be told, one after the other, and the other pieces."""
        seconds, unknown = 0.0, []
        for piece in pieces:
            one = self.one(piece)
            if one is None:
                unknown.append(piece)
            else:
                seconds += one * piece.trials
        return seconds, unknown


def piece_of(label: str, spec: RunSpec, trials: int = 1) -> Piece:
    """Return a run as a piece of work."""
    return Piece(spec.data.name, label, spec.model, trials)


def whole_seconds(note: RunNote) -> float:
    """Return what a run took from data to figures; phases inside training are not counted twice."""
    return sum(value for name, value in note.seconds.items() if not name.startswith("train."))


@dataclass(frozen=True)
class Cost:
    """What is there and what is to be done.

    Parameters
    ----------
    runs, cached
        Runs of the whole bench, and those whose results are there.
    failed_before
        Runs that failed last time and are tried again.
    trials
        Trials of searches that are to be made.
    seconds
        Of what can be told, on one process.
    unknown
        What cannot.
    jobs, threads
        Processes, and threads of each.
    """

    runs: int
    cached: int
    failed_before: int
    trials: int
    seconds: float
    unknown: Sequence[Piece]
    jobs: int
    threads: int

    def lines(self) -> list[str]:
        """Say it."""
        todo = self.runs - self.cached
        said = [f"{self.runs:,} runs: {self.cached:,} are there, {todo:,} to do."]
        if self.failed_before:
            said.append(f"{self.failed_before:,} of them failed last time and are tried again.")
        if self.trials:
            said.append(f"Before them {self.trials:,} trials of searches, on validation only.")
        if todo or self.trials:
            said.append(self._time())
        return said

    def _time(self) -> str:
        where = f"{self.jobs} process{'es' if self.jobs > 1 else ''} of {self.threads} thread"
        where += "s" if self.threads > 1 else ""
        if not self.unknown:
            return f"Time: about {duration(self.seconds / self.jobs)} on {where}, going by earlier runs here."
        rows = list(dict.fromkeys(f"{piece.label} on {piece.data}" for piece in self.unknown))
        shown = "; ".join(rows[:3]) + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
        some = (
            f"about {duration(self.seconds / self.jobs)} for what ran here before, and "
            if self.seconds
            else ""
        )
        return (
            f"Time on {where}: {some}unknown for {len(rows)} row{'s' if len(rows) > 1 else ''} that "
            f"never ran here ({shown}): the first run of each will tell."
        )


def duration(seconds: float) -> str:
    """Write a time for people: "40 s", "7 min", "2 h 05 min"."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def time_left(timings: Timings, pieces: Iterable[Piece], jobs: int) -> str:
    """Say how long the rest will take, as far as it can be told."""
    seconds, unknown = timings.total(pieces)
    if not unknown:
        return f"about {duration(seconds / jobs)} left" if seconds else ""
    if not seconds:
        return "time left not known yet"
    return f"at least {duration(seconds / jobs)} left, {len(unknown)} not timed yet"
