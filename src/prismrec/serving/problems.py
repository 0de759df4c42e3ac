"""Refusals as the API answers them: one JSON form, a fitting status, never an inside view."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from prismrec.base.errors import DamagedError, InputError, MissingExtraError, PrismError, StorageError
from prismrec.serving.errors import UnknownItem

_SHOWN = 3
_LONGEST = 1_000


class RequestError(PrismError):
    """A request is refused.

    Parameters
    ----------
    status
        Of the answer.
    error
        One word for programs.
    problem, hint
        For people.
    headers
        Of the answer, besides.
    """

    def __init__(
        self,
        status: int,
        error: str,
        problem: str,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(problem, hint)
        self.status = status
        self.error = error
        self.headers = dict(headers or {})

    def body(self, request_id: str) -> bytes:
        """Return the answer's body, JSON."""
        values = {"error": self.error, "problem": _cut(self.problem), "request_id": request_id}
        values["hint"] = _cut(self.hint or "")
        return to_json(values)


def refusal(error: PrismError, *, in_path: bool) -> RequestError:
    """Return how an error of the library is answered.

    Parameters
    ----------
    error
        What was raised.
    in_path
        Whether the request's path names what it is about: then what is unknown is not found (404), otherwise
        the request cannot be carried out (422).
    """
    if isinstance(error, RequestError):
        return error
    if isinstance(error, UnknownItem):
        return RequestError(404 if in_path else 422, "unknown_item", error.problem, error.hint)
    if isinstance(error, InputError):
        return RequestError(422, "invalid", error.problem, error.hint)
    # From here on the message may name folders of this machine: it stays in the log.
    if isinstance(error, StorageError):
        return RequestError(
            503,
            "storage",
            "The service cannot write to its disk; nothing was changed.",
            "Try again later; the operator finds the cause in the log.",
            {"Retry-After": "30"},
        )
    if isinstance(error, DamagedError | MissingExtraError):
        return RequestError(
            503,
            "unavailable",
            "The service lacks something that it needs for this.",
            "The operator finds the cause in the log.",
            {"Retry-After": "60"},
        )
    return internal()


def internal() -> RequestError:
    """Return the answer to what nobody thought of."""
    return RequestError(
        500, "internal", "Something went wrong inside the service.", "Tell the operator the request_id."
    )


def invalid(errors: Sequence[Mapping[str, Any]]) -> RequestError:
    """Return the answer to what failed a check by pydantic; JSON that cannot be read is 400, the rest 422."""
    if errors and errors[0]["type"] == "json_invalid":
        return RequestError(400, "not_json", f"{errors[0]['msg']}.", "Send one JSON value in UTF-8.")
    shown = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in errors[:_SHOWN]]
    more = f"; and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
    return RequestError(
        422, "invalid", "; ".join(shown) + more, "What is expected stands in /v1/openapi.json."
    )


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
