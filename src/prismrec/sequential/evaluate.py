"""How well a tuned language model ranks, beside what it must be held against."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prismrec.base.errors import InputError
from prismrec.base.progress import SILENT, Progress
from prismrec.recommender.recommender import Recommender
from prismrec.sequential.backbone import Backbone
from prismrec.sequential.baselines import asked, first_stage_scores, popularity_scores
from prismrec.sequential.examples import Example, Task
from prismrec.sequential.measures import Measured, Scored, measure
from prismrec.sequential.prepared import Prepared
from prismrec.sequential.result import Costs, SequentialResult, judge
from prismrec.sequential.runs import load_run, read_manifest, settings_of
from prismrec.sequential.scoring import Floats, score_examples, write_choices
from prismrec.sequential.writer import Writer

MODES = ("likelihood", "written")
POPULARITY = "popularity"


def evaluate_run(
    run: Path,
    *,
    part: str = "valid",
    mode: str = "likelihood",
    normalised: bool = True,
    beside: Mapping[str, Recommender] | None = None,
    before: Sequence[Path] = (),
    most: int | None = None,
    device: str = "cpu",
    shop: Path | None = None,
    progress: Progress = SILENT,
) -> SequentialResult:
    """Score a part's questions with a run and measure it, beside random, popularity and whatever is given.

    Parameters
    ----------
    run
        A finished run.
    part
        ``"valid"`` or ``"test"``.
    mode
        ``"likelihood"``: each candidate by the log-probability of its title. ``"written"``: the model writes,
        nothing but candidates, the likeliest token each time; for ``binary`` they are the same.
    normalised
        Divide a title's log-probability by its number of tokens.
    beside
        Trained runs of the toolkit by the name they get in the table: the first stage, SASRec. None may have
        been trained on what is asked.
    before
        Other runs of this kind on the same questions, the supervised one before its alignment say. They are
        scored in the same way.
    most
        Most questions, the first ones; None: all.
    device
        Where to score.
    shop
        Where the data set lies now, if it was moved.
    progress
        Where to report to.

    Returns
    -------
    SequentialResult

    Raises
    ------
    InputError
        If the part is empty, a run does not fit, one was trained on what is asked, or two of them have one
        name.
    """
    if mode not in MODES:
        raise InputError(f"There is no mode {mode!r}.", f"Modes are {', '.join(MODES)}.")
    if part not in ("valid", "test"):
        raise InputError(f"There is no part {part!r} to measure.", "Parts are valid and test.")
    if most is not None and most < 1:
        raise InputError(f"At most {most} questions (most) are none.", "Give 1 or more, or None for all.")
    _require_names([POPULARITY, *map(_name, (run, *before)), *(beside or {})])
    manifest, prepared, backbone, writer = load_run(run, device=device, shop=shop)
    examples = prepared.part(part)[:most]
    if not examples:
        raise InputError(f"{prepared.path}: the part {part!r} has no questions.", "Choose another split.")
    others, notes = [], list(manifest.notes)
    for other in before:
        if read_manifest(other).plan.questions != manifest.plan.questions:
            raise InputError(
                f"{other}: this run was trained on other questions.", "Compare runs on the same questions."
            )
    # First what is quick: a run that has seen the answers is refused before hours of scoring.
    for name, recommender in (beside or {}).items():
        found = first_stage_scores(examples, recommender, prepared.ids)
        others.append(measure(name, prepared.task, found.scored))
        notes += [f"{name}: {line}" for line in found.notes()]
    scoring = _Scoring(mode, normalised, progress)
    begun = time.perf_counter()
    scores = scoring.scores(backbone, writer, examples)
    costs = _costs(writer, examples, time.perf_counter() - begun)
    ours = _measured(_name(run), prepared, examples, scores)
    for other in before:
        others.append(_other(other, prepared, examples, device, shop, scoring))
    opened = prepared.open_test({"run": str(run), "mode": mode}) if part == "test" else None
    popular = measure(POPULARITY, prepared.task, popularity_scores(examples, prepared.counts()))
    return judge(
        examples,
        ours,
        popular,
        others,
        part=part,
        costs=costs,
        settings={
            "run": str(run),
            "mode": mode,
            "normalised": normalised,
            "prepared": settings_of(prepared.config),
            "plan": settings_of(manifest.plan),
        },
        notes=notes,
        test_openings_before=opened,
    )


@dataclass(frozen=True)
class _Scoring:
    """How all models of a comparison are scored."""

    mode: str
    normalised: bool
    progress: Progress

    def scores(self, backbone: Backbone, writer: Writer, examples: Sequence[Example]) -> list[Floats]:
        if self.mode == "written" and writer.task is not Task.BINARY:
            return write_choices(backbone, writer, examples, progress=self.progress)
        return score_examples(backbone, writer, examples, normalised=self.normalised, progress=self.progress)


def _name(run: Path) -> str:
    # "." has no name of its own.
    return run.absolute().name


def _require_names(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"{name!r} would stand twice in the table.",
                "Rename a run's folder, or give a trained run another name.",
            )


def _measured(
    name: str, prepared: Prepared, examples: Sequence[Example], scores: Sequence[Floats]
) -> Measured:
    scored = [Scored(e, s) for e, s in zip(examples, scores, strict=True)]
    return measure(name, prepared.task, scored)


def _other(
    run: Path,
    prepared: Prepared,
    examples: Sequence[Example],
    device: str,
    shop: Path | None,
    scoring: _Scoring,
) -> Measured:
    _, _, backbone, writer = load_run(run, device=device, shop=shop)
    return _measured(_name(run), prepared, examples, scoring.scores(backbone, writer, examples))


def _costs(writer: Writer, examples: Sequence[Example], seconds: float) -> Costs:
    remarks = writer.remarks
    named = [item for example in examples for item in asked(example)]
    tokens = {
        item: len(writer.processor.answer(f'"{writer.shelf.titles[item]}"', ends=False))
        for item in set(named)
    }
    return Costs(
        requests=len(examples),
        seconds=seconds,
        candidates=len(named),
        candidate_tokens=sum(tokens[item] for item in named),
        prompt_tokens=remarks.tokens,
        longest_prompt=remarks.most_tokens,
        shortened_prompts=remarks.shortened,
        unreadable_pictures=len(remarks.unreadable),
    )
