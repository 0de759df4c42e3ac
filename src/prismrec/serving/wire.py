"""What the service says as JSON: plain dictionaries of the documented forms, written by a compiled writer."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from prismrec.serving.problems import RequestError
from prismrec.serving.schemas import HealthOut
from prismrec.serving.types import Answer, Fan, Health, Item, NewItem, PutReport, Ranked


def dump(value: Mapping[str, Any]) -> bytes:
    """Return JSON; what is not a finite number becomes null, as no JSON has it."""
    # pydantic's writer is compiled: a list of ten takes microseconds, which keeps the fast route fast.
    return to_json(value, inf_nan_mode="null", bytes_mode="base64", fallback=str)


def item_values(item: Item) -> dict[str, Any]:
    """Return an `ItemOut` as plain values."""
    return {
        "item_id": item.item_id,
        "title": item.title,
        "attributes": dict(item.attributes),
        "has_picture": item.has_picture,
        "new": item.new,
        "ranked": item.ranked,
    }


def ranked_values(place: Ranked) -> dict[str, Any]:
    """Return a `RankedOut` as plain values."""
    reason = place.reason
    return {
        "rank": place.rank,
        "score": float(place.score),
        "item": item_values(place.item),
        "reason": None
        if reason is None
        else {
            "weights": dict(reason.weights),
            "experts": dict(reason.experts),
            "because": [{"item_id": name, "similarity": float(like)} for name, like in reason.because],
        },
    }


def fan_values(fan: Fan) -> dict[str, Any]:
    """Return a `FanOut` as plain values."""
    return {"user_id": fan.user_id, "rank": fan.rank, "score": float(fan.score)}


def answer_values(answer: Answer) -> dict[str, Any]:
    """Return an `AnswerOut` as plain values."""
    return {
        "items": [ranked_values(place) for place in answer.items],
        "model": answer.model,
        "fallback": answer.fallback,
        "reranked": answer.reranked,
    }


def put_values(items: Sequence[NewItem], report: PutReport) -> dict[str, Any]:
    """Return a `PutOut` as plain values.

    Raises
    ------
    RequestError
        422 if none of the items was stored.
    """
    stored = {*report.added, *report.updated, *report.unchanged}
    refused = [item.item_id for item in items if item.item_id not in stored]
    if len(refused) == len(items):
        reasons = [f"item {name!r}: {field}: {reason}" for name, field, reason in report.problems]
        raise RequestError(
            422,
            "invalid",
            f"Nothing was stored: {'; '.join(reasons) or 'no reason was given'}.",
            "Mend what is named and send it again.",
        )
    return {
        "added": report.added,
        "updated": report.updated,
        "unchanged": report.unchanged,
        "without_content": report.without_content,
        "refused": refused,
        "problems": _problems(report.problems),
    }


def health_values(health: Health) -> dict[str, Any]:
    """Return a `HealthOut` as plain values."""
    return {name: getattr(health, name) for name in HealthOut.model_fields}


def _problems(problems: Sequence[tuple[str, str, str]]) -> list[dict[str, str]]:
    return [{"item_id": name, "field": field, "reason": reason} for name, field, reason in problems]
