"""What all pages share: templates, links, headers, styles and script, and pages for errors."""

from collections.abc import Callable, Coroutine, Mapping
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException

from prismrec.base.errors import PrismError
from prismrec.base.files import digest
from prismrec.serving.observe import note_failure
from prismrec.serving.page import pictures, shown
from prismrec.serving.page.guard import Guard
from prismrec.serving.page.options import PageOptions, Parts
from prismrec.serving.problems import refusal

_STATIC = {"style.css": "text/css", "page.js": "text/javascript"}

# Nothing from elsewhere, no script and no style but the two files. Scripts may still move things about.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # The address of a page holds what a person likes: it goes to no other site. To this one it has to go:
    # without it browsers hide the origin of a form.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_TITLES = {
    400: "That cannot be done",
    401: "Who are you?",
    403: "Not allowed",
    404: "Not found",
    413: "Too large",
    422: "That cannot be read",
    503: "Not possible at the moment",
}


class Frame:
    """Renders pages.

    Parameters
    ----------
    parts
        What the page stands on.
    options
        How it is set up.
    """

    def __init__(self, parts: Parts, options: PageOptions) -> None:
        self._parts = parts
        self._options = options
        self.guard = Guard(options.secret)
        self._static = {name: (files(__package__) / "static" / name).read_bytes() for name in _STATIC}
        self._marks = {name: digest(content)[:12] for name, content in self._static.items()}
        self._environment = Environment(
            loader=PackageLoader(__package__),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters["title_of"] = shown.title
        self._environment.filters["said"] = shown.value
        self._environment.globals["stand_in"] = pictures.stand_in

    def page(self, request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Render a page.

        Parameters
        ----------
        request
            What it answers.
        template
            Name of the template, without its ending.
        status
            Status of the answer.
        values
            What the template shows.
        """
        parts = self._parts
        token, cookie = self.guard.token(request) if parts.write is not None else ("", None)
        html = self._environment.get_template(f"{template}.html").render(
            at=_links(request),
            here=template,
            options=self._options,
            health=parts.service.health(),
            can_compare=parts.other is not None,
            can_write=parts.write is not None,
            can_map=parts.drawable is not None,
            has_results=self._options.evaluation is not None,
            marks=self._marks,
            token=token,
            **values,
        )
        answer = HTMLResponse(html, status, headers=_HEADERS)
        if cookie is not None:
            self.guard.remember(request, answer, cookie)
        return answer

    def problem(
        self,
        request: Request,
        status: int,
        text: str,
        hint: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> HTMLResponse:
        """Render a page that says what is wrong and what to do."""
        heading = _TITLES.get(status, "Something went wrong")
        answer = self.page(request, "problem", status, heading=heading, text=text, hint=hint)
        answer.headers.update(headers or {})
        return answer

    def static(self, name: str, v: str = "") -> Response:
        """Answer with the styles or the script."""
        if name == "icon.svg":
            return Response(pictures.icon(), 200, _file_headers("max-age=86400"), "image/svg+xml")
        if name not in _STATIC:
            raise HTTPException(404, f"There is no file {name!r}.")
        # The address changes with the content, so that an old copy is never shown.
        lasting = "max-age=31536000, immutable" if v == self._marks[name] else "no-cache"
        return Response(self._static[name], 200, _file_headers(lasting), _STATIC[name])

    def router(self) -> APIRouter:
        """Return a router whose errors are pages, with the styles and the script."""
        router = APIRouter(route_class=_explaining(self), include_in_schema=False)
        router.add_api_route("/page/static/{name}", self.static, methods=["GET"], name="page_static")
        return router


def _file_headers(caching: str) -> dict[str, str]:
    return {"Cache-Control": caching, "X-Content-Type-Options": "nosniff"}


def _links(request: Request) -> Callable[..., str]:
    """Return a function from a route's name and a query to an address that works behind any prefix."""

    def at(route: str, **query: Any) -> str:
        inside = {"name": query.pop("name")} if route == "page_static" else {}
        path = request.url_for(route, **inside).path
        given = {name: v for name, v in query.items() if v not in (None, "", (), [], False)}
        return f"{path}?{urlencode(given, doseq=True)}" if given else path

    return at


def _explaining(frame: Frame) -> type[APIRoute]:
    """Return a class of routes that answer errors by a page instead of JSON."""

    class Explaining(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                try:
                    return await handle(request)
                except RequestValidationError as error:
                    found = [f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors()]
                    return frame.problem(request, 422, "; ".join(found) + ".", "Go back and change it.")
                except HTTPException as error:
                    return frame.problem(request, error.status_code, str(error.detail), "", error.headers)
                except PrismError as error:
                    return _refused(frame, request, error)

            return guarded

    return Explaining


def _refused(frame: Frame, request: Request, error: PrismError) -> Response:
    """Answer as the API does, in words for people; what names this machine's files goes to the log alone."""
    refused = refusal(error, in_path=True)
    request.state.error = refused.error
    if refused.status >= 500:
        note_failure(error, getattr(request.state, "request_id", ""))
    return frame.problem(request, refused.status, refused.problem, refused.hint or "", refused.headers)
