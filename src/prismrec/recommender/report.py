"""`evaluate_run`: evaluates a run's folder and leaves the numbers and a page in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from prismrec.base.errors import DamagedError, InputError, PrismError
from prismrec.base.files import read_json, write_json, write_text
from prismrec.base.progress import SILENT, Progress
from prismrec.data.splits import Candidates, Part, Split
from prismrec.evaluation.report import write_report
from prismrec.evaluation.report_inputs import Epoch
from prismrec.evaluation.result import EvaluationResult
from prismrec.recommender.evaluate import OpenedPart, measure, open_part
from prismrec.recommender.examples import choose_examples
from prismrec.recommender.folder import MANIFEST, load, read_manifest, write_manifest
from prismrec.recommender.insights import expert_load, modality_weights
from prismrec.recommender.manifest import RunManifest
from prismrec.recommender.part_ranking import default_candidates, ranking_device
from prismrec.recommender.recommender import Recommender

METRICS_FILE = "metrics.json"
RESULT_FILE = "evaluation.json"
TABLE_FILE = "evaluation.md"
REPORT_FILE = "report.html"

_COLD_MODES = (Candidates.STRICT, Candidates.AS_RELEASED, Candidates.ALL_ITEMS)


@dataclass(frozen=True)
class _Shown:
    """What the page shows of a run beside its numbers."""

    recommender: Recommender
    opened: OpenedPart
    examples: int
    baselines: list[EvaluationResult]


def evaluate_run(
    run: Path | str,
    *,
    parts: Sequence[str] = ("valid", "test"),
    candidates: Sequence[str] | None = None,
    ks: Sequence[int] = (10, 20),
    examples: int = 6,
    report: bool = True,
    compare: Sequence[Path] = (),
    device: str = "cpu",
    progress: Progress = SILENT,
) -> EvaluationResult:
    """Evaluate a run and write ``metrics.json``, ``evaluation.json``, ``evaluation.md`` and ``report.html``.

    Parameters
    ----------
    run
        The run's folder.
    parts
        "valid", "test" or both; the test part is opened once, and that is written down. A validation part
        that the split does not have is left out with a note, if there is another part.
    candidates
        Candidate modes; None: strict, as_released and all_items for a split of items, else the one that fits
        the split.
    ks
        Lengths of the lists.
    examples
        How many people the page shows.
    report
        Whether to write the page.
    compare
        Folders of evaluated runs of the same split to compare with, beside those that lie next to this one.
    device
        Where to rank, as in `prismrec.recommender.evaluate.evaluate`.
    progress
        Where to report to.

    Returns
    -------
    EvaluationResult
        All parts, the test part first.

    Raises
    ------
    InputError
        If the folder is no run, there is nothing to evaluate on, K is larger than the number of candidates,
        or a run to compare with was not evaluated or has another split.
    DamagedError
        If a file of the run is missing or altered.
    StorageError
        If the disk refuses.
    ConfigError
        If there is no such device here.
    """
    run = Path(run)
    there = ranking_device(device)
    recommender = load(run)
    baselines = _baselines(run, recommender.manifest, compare, progress) if report else []
    wanted, notes = _parts(recommender.split, parts)
    opened, results = [], []
    # The validation part first: what is wrong with the arguments shows before the test part opens.
    for part in sorted(wanted, key=lambda name: name == Part.TEST):
        modes = candidates or _modes(recommender.split)
        opened.append(open_part(recommender, recommender.split, part, modes, ks))
        if part == Part.TEST:
            write_manifest(recommender)
        results.append(measure(recommender, opened[-1], progress, device=there))
    result = _merged(results, notes)
    write_json(run / METRICS_FILE, result.metrics_json())
    write_json(run / RESULT_FILE, result.model_dump(mode="json"))
    write_text(run / TABLE_FILE, result.markdown())
    if report:
        _write_page(run / REPORT_FILE, result, _Shown(recommender, opened[-1], examples, baselines))
    return result


def read_result(run: Path) -> EvaluationResult:
    """Read what `evaluate_run` left in a run's folder.

    Raises
    ------
    InputError
        If the run was not evaluated.
    DamagedError
        If the file is damaged.
    """
    if not (run / RESULT_FILE).exists():
        raise InputError(f"{run}: this run was not evaluated.", f"Do it with: prismrec evaluate {run}")
    try:
        return EvaluationResult.model_validate(read_json(run / RESULT_FILE, "an evaluated run"))
    except ValidationError as error:
        raise DamagedError(
            f"{run / RESULT_FILE}: the file is damaged ({error}).", f"Do it again: prismrec evaluate {run}"
        ) from None


def _modes(split: Split) -> Sequence[str] | None:
    return _COLD_MODES if default_candidates(split) is Candidates.STRICT else None


def _parts(split: Split, parts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which parts there are to evaluate, each once, and what to tell about the others."""
    wanted = list(dict.fromkeys(parts))
    if not wanted:
        raise InputError("No part was given to evaluate.", f"Parts: {', '.join(Part)}.")
    if Part.VALID in wanted and len(wanted) > 1 and len(split.valid) == 0:
        wanted.remove(Part.VALID)
        return wanted, ["This split has no validation part."]
    return wanted, []


def _merged(results: Sequence[EvaluationResult], notes: Sequence[str]) -> EvaluationResult:
    """Put the parts together, the test part first: what comes first gives the page its key figure."""
    ordered = list(reversed(results))
    said = dict.fromkeys([*notes, *(note for result in ordered for note in result.notes)])
    return ordered[0].model_copy(
        update={"parts": [part for result in ordered for part in result.parts], "notes": list(said)}
    )


def _baselines(
    run: Path, manifest: RunManifest, compare: Sequence[Path], progress: Progress
) -> list[EvaluationResult]:
    """Results of the runs named, and of those beside this one that have the same split."""
    found: dict[Path, EvaluationResult] = {}
    for other in map(Path, compare):
        if read_manifest(other).split_hash != manifest.split_hash:
            raise InputError(
                f"{other}: cannot be compared with {run}: it has another split.",
                "Train and evaluate both on one split.",
            )
        found[other.resolve()] = read_result(other)
    for path in sorted(run.resolve().parent.glob(f"*/{MANIFEST}")):
        other = path.parent
        if other in found or not (other / RESULT_FILE).exists():
            continue
        try:
            if read_manifest(other).split_hash == manifest.split_hash:
                found[other] = read_result(other)
        except PrismError as error:
            progress.say(f"not compared with: {error}")
    found.pop(run.resolve(), None)
    return list(found.values())


def _write_page(path: Path, result: EvaluationResult, shown: _Shown) -> None:
    recommender, history = shown.recommender, shown.recommender.manifest.history
    people, chosen = choose_examples(recommender, shown.opened, shown.examples)
    write_report(
        path,
        result.model_copy(update={"notes": [*result.notes, *chosen]}),
        learning_curve=_epochs(recommender.manifest),
        best_epoch=history.best_epoch or None,
        baselines=shown.baselines,
        examples=people,
        modality_weights=modality_weights(recommender),
        expert_load=expert_load(recommender),
    )


def _epochs(manifest: RunManifest) -> list[Epoch]:
    """Epochs with the metric that chose among them first, and two that say how many are found."""
    metric = manifest.training.metric
    k = metric.partition("@")[2]
    names = dict.fromkeys((metric, f"ndcg@{k}", f"recall@{k}", f"hit_rate@{k}"))
    return [
        Epoch(e.epoch, e.seconds, e.losses, {n: e.metrics[n] for n in names if n in e.metrics})
        for e in manifest.history.epochs
    ]
