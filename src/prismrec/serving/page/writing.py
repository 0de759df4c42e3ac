"""The pages that write: a new item comes in, and is kept or deleted."""

import secrets
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse
from starlette.datastructures import FormData, UploadFile

from prismrec.base.errors import InputError
from prismrec.serving.page import pictures, shown
from prismrec.serving.page.entries import Field, field_of
from prismrec.serving.page.frame import Frame
from prismrec.serving.page.guard import FIELD
from prismrec.serving.page.options import PageOptions, Parts
from prismrec.serving.types import NewItem, Service, Wish

_FANS, _NEIGHBOURS, _LONGEST_ID = 12, 12, 200
# So many items are looked at for what a column holds: some may have no value in it.
_SAMPLE = 1000


@dataclass
class _Entry:
    """What somebody filled in, and what is wrong with it, by field."""

    item_id: str = ""
    values: dict[str, str] = field(default_factory=dict)
    picture: bytes | None = None
    wrong: dict[str, str] = field(default_factory=dict)


class WritingPages:
    """Answers to what adds and deletes items."""

    def __init__(self, parts: Parts, options: PageOptions, frame: Frame) -> None:
        assert parts.write is not None
        self._service, self._frame, self._options = parts.service, frame, options
        self._write = parts.write
        # A catalogue without titles is asked for the id alone.
        asked = (options.title_field, *options.fields, *options.texts)
        self._columns = tuple(name for name in dict.fromkeys(asked) if name != "item_id")

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        allowed = [Depends(self._write)]
        router.add_api_route("/page/new", self.form, methods=["GET"], name="page_new")
        router.add_api_route("/page/new", self.add, methods=["POST"], name="page_add", dependencies=allowed)
        router.add_api_route(
            "/page/delete", self.delete, methods=["POST"], name="page_delete", dependencies=allowed
        )

    def form(self, request: Request, deleted: str = "") -> Response:
        """Show an empty form."""
        return self._form(request, _Entry(), deleted=deleted[:_LONGEST_ID])

    async def add(self, request: Request) -> Response:
        """Take in an item and show where it stands."""
        async with request.form(max_files=1, max_fields=len(self._columns) + 8) as form:
            self._frame.guard.check(request, _text(form, FIELD))
            entry = await self._read(form)
        return await run_in_threadpool(self._add, request, entry)

    async def delete(self, request: Request) -> Response:
        """Remove an item."""
        async with request.form(max_files=0, max_fields=8) as form:
            self._frame.guard.check(request, _text(form, FIELD))
            item_id = _text(form, "id")
        gone = await run_in_threadpool(self._service.delete, [item_id])
        if not gone:
            raise HTTPException(404, f"There is no item {item_id!r}; somebody may have deleted it before.")
        to = request.url_for("page_new").path
        return RedirectResponse(f"{to}?{_query(deleted=item_id)}", 303)

    def _add(self, request: Request, entry: _Entry) -> Response:
        self._check(entry)
        attributes = self._attributes(entry)
        if entry.wrong:
            return self._form(request, entry)
        try:
            report = self._service.put([NewItem(entry.item_id, attributes, entry.picture)])
        except InputError as error:
            entry.wrong[""] = str(error)
            return self._form(request, entry)
        if entry.item_id not in {*report.added, *report.updated, *report.unchanged}:
            entry.wrong[""] = "; ".join(f"{place}: {why}" for _, place, why in report.problems) or "refused"
            return self._form(request, entry)
        if report.problems:
            # Said here, as nothing but this answer knows of them.
            view = neighbourhood(self._service, entry.item_id)
            return self._frame.page(
                request, "item", 201, user="", why=None, added=True, problems=report.problems, **view
            )
        to = request.url_for("page_item").path
        return RedirectResponse(f"{to}?{_query(id=entry.item_id, added='1')}", 303)

    async def _read(self, form: FormData) -> _Entry:
        entry = _Entry(_text(form, "id").strip())
        entry.values = {name: _text(form, f"field:{name}").strip() for name in self._columns}
        picture = form.get("picture")
        if isinstance(picture, UploadFile) and picture.filename:
            content = await picture.read(self._options.max_picture + 1)
            if len(content) > self._options.max_picture:
                entry.wrong["picture"] = f"The picture is larger than {self._options.max_picture:,} bytes."
            else:
                entry.picture = content
        return entry

    def _fields(self) -> tuple[Field, ...]:
        items = self._service.find_items("", _SAMPLE)
        return tuple(field_of(name, items) for name in self._columns)

    def _attributes(self, entry: _Entry) -> dict[str, object]:
        """Return the values that were entered; what stands for none is noted in the entry."""
        attributes = {}
        for asked in self._fields():
            text = entry.values[asked.name]
            if text:
                try:
                    attributes[asked.name] = asked.read(text)
                except ValueError:
                    entry.wrong[asked.name] = f"{asked.label}: {shown.cut(text)!r} is not {asked.expects}."
        return attributes

    def _check(self, entry: _Entry) -> None:
        title = self._options.title_field
        if entry.values.get(title) == "":
            entry.wrong[title] = "Give it a title."
        if entry.picture is not None and pictures.shrink(entry.picture, pictures.SMALL) is None:
            entry.wrong["picture"] = (
                "This is not a picture that can be read: choose a JPEG, PNG or WebP file."
            )
        if len(entry.item_id) > _LONGEST_ID:
            entry.wrong["id"] = f"The id has more than {_LONGEST_ID} characters."
        elif entry.item_id and self._is_there(entry.item_id):
            # Deleting a replaced item would not bring the old one back.
            entry.wrong["id"] = "There is such an item already: choose another id, or leave it empty."
        entry.item_id = entry.item_id or f"new-{secrets.token_hex(4)}"

    def _is_there(self, item_id: str) -> bool:
        try:
            self._service.item(item_id)
        except InputError:
            return False
        return True

    def _form(self, request: Request, entry: _Entry, deleted: str = "") -> Response:
        status = 422 if entry.wrong else 200
        return self._frame.page(request, "new", status, entry=entry, deleted=deleted, fields=self._fields())


def neighbourhood(service: Service, item_id: str) -> dict[str, Any]:
    """Return an item, what is like it, and to whom it would be recommended.

    Raises
    ------
    UnknownItem
        If there is no such item.
    """
    item = service.item(item_id)
    view: dict[str, Any] = {"item": item, "fans": (), "cards": []}
    if item.ranked:
        view["fans"] = [(fan, shown.number(fan.score)) for fan in service.fans(item_id, _FANS)]
        view["cards"] = shown.cards(service, service.similar(item_id, Wish(k=_NEIGHBOURS)))
    return view


def _text(form: FormData, name: str) -> str:
    value = form.get(name, "")
    return value if isinstance(value, str) else ""


def _query(**values: str) -> str:
    from urllib.parse import urlencode

    return urlencode(values)
