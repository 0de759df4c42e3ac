"""One page that shows a run to people: a single file that asks for nothing from outside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prismrec.base.errors import InputError
from prismrec.base.files import write_text
from prismrec.evaluation import report_insights, report_views
from prismrec.evaluation.pictures import data_uri, hue
from prismrec.evaluation.report_inputs import Epoch, ExpertLoad, ItemCard, ModalityWeights, UserExample
from prismrec.evaluation.report_insights import Share
from prismrec.evaluation.report_views import Headline, MetricRow, Row
from prismrec.evaluation.result import Beyond, EvaluationResult, PartResult, openings_sentence


@dataclass(frozen=True)
class _Part:
    """One part of the result with all that is shown of it."""

    result: PartResult
    meaning: str
    headline: Headline
    ks: list[int]
    metrics: list[MetricRow]
    slices: list[tuple[str, str, list[Row]]]
    comparison: list[Row]
    beyond: list[tuple[str, str, str]]


@dataclass(frozen=True)
class _Card:
    """An item as it is drawn."""

    item: ItemCard
    picture: str | None
    hue: int
    shares: list[Share]


@dataclass(frozen=True)
class _Person:
    """A user as drawn."""

    example: UserExample
    history: list[_Card]
    recommendations: list[_Card]
    hits: int


def write_report(
    path: Path,
    result: EvaluationResult,
    *,
    headline: str | None = None,
    learning_curve: Sequence[Epoch] = (),
    best_epoch: int | None = None,
    baselines: Sequence[EvaluationResult] = (),
    examples: Sequence[UserExample] = (),
    modality_weights: ModalityWeights | None = None,
    expert_load: ExpertLoad | None = None,
) -> None:
    """Write the report of a run as one HTML file; what is not given is not shown.

    The file holds its style, drawings and pictures, runs no script and forbids itself any request. All data
    are escaped. The first part of the result gives the key figure; the others follow it.

    Parameters
    ----------
    path
        The file; written atomically.
    result
        The evaluation.
    headline
        The metric of the key figure, e.g. ``"ndcg@10"``. By default the one that is easiest to grasp.
    learning_curve
        Epochs of the training.
    best_epoch
        The epoch whose weights were kept; by default that of the best first validation metric.
    baselines
        Other runs; those evaluated on the same part and candidates are compared.
    examples
        Some users with their history and recommendations.
    modality_weights
        How much each modality says, over items.
    expert_load
        How the work is shared among experts.

    Raises
    ------
    InputError
        If the result has no part, or a part has no metric, or the headline's metric was not computed.
    StorageError
        If the disk refuses.
    """
    if not result.parts or not all(part.metrics for part in result.parts):
        raise InputError("There is nothing to report: the result holds no part, or a part without a metric.")
    if headline is not None and headline not in result.parts[0].metrics:
        raise InputError(
            f"The metric {headline!r} of the key figure was not computed.",
            f"There are: {', '.join(result.parts[0].metrics)}.",
        )
    colors = _colors(modality_weights, examples)
    rows, more = report_insights.category_rows(modality_weights) if modality_weights else ([], 0)
    page = _template().render(
        result=result,
        parts=[_part(part, result, baselines, headline) for part in result.parts],
        training=report_insights.training(learning_curve, best_epoch),
        distributions=report_insights.distributions(modality_weights) if modality_weights else [],
        categories=rows,
        categories_left_out=more,
        experts=report_insights.experts(expert_load) if expert_load else [],
        people=[_person(example, colors) for example in examples],
        colors=colors,
        split=_settings(result.split),
        config=_settings(result.config),
        openings=None
        if result.test_openings_before is None
        else openings_sentence(result.test_openings_before),
    )
    write_text(path, page)


def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("prismrec.evaluation", package_path="")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html")


def _part(
    part: PartResult, result: EvaluationResult, baselines: Sequence[EvaluationResult], wanted: str | None
) -> _Part:
    key = report_views.headline(part, wanted)
    ks, metrics = report_views.metric_table(part)
    return _Part(
        result=part,
        meaning=report_views.CANDIDATES.get(part.candidates, part.candidates),
        headline=key,
        ks=ks,
        metrics=metrics,
        slices=report_views.slice_tables(part, key.metric),
        comparison=report_views.comparison(part, result, baselines, key.metric),
        beyond=_beyond(part.beyond) if part.beyond else [],
    )


def _beyond(beyond: Beyond) -> list[tuple[str, str, str]]:
    rows = [
        ("Coverage", report_views.percent(beyond.coverage), "of the candidates are suggested to somebody"),
        (
            "Inequality (Gini)",
            f"{beyond.gini:.2f}",
            "0: all items are shown alike; near 1: a few take it all",
        ),
        (
            "Novelty",
            f"{beyond.novelty:.1f} bits",
            "how surprising the suggestions are: high for rarely clicked ones",
        ),
        ("Popularity", f"{beyond.popularity:,.1f}", "training interactions of a suggestion, on average"),
    ]
    if beyond.diversity is not None:
        rows.append(("Diversity", f"{beyond.diversity:.2f}", "0: all contents of a list alike; 1: unrelated"))
    return rows


def _colors(weights: ModalityWeights | None, examples: Sequence[UserExample]) -> dict[str, int]:
    """One colour a modality, the same on the whole page."""
    names = list(weights.names) if weights else []
    for example in examples:
        for card in example.recommendations:
            names += sorted(card.weights)
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


def _person(example: UserExample, colors: Mapping[str, int]) -> _Person:
    return _Person(
        example=example,
        history=[_card(item, colors) for item in example.history],
        recommendations=[_card(item, colors) for item in example.recommendations],
        hits=sum(item.hit for item in example.recommendations),
    )


def _card(item: ItemCard, colors: Mapping[str, int]) -> _Card:
    shares = report_insights.stacked(item.weights, colors) if item.weights else []
    return _Card(item, data_uri(item.picture), hue(item.title), shares)


def _settings(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in values.items()]
