"""The pages of the map: the drawing, its points as JSON and as SVG, and the table beside it."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse

from prismrec.serving.page import shown
from prismrec.serving.page.frame import Frame
from prismrec.serving.page.layout import EDGE
from prismrec.serving.page.options import MapQuery, PageOptions, Parts
from prismrec.serving.page.projection import MODALITY, Groups, Map, Points, group

_ROWS = 25
# In the order of the style's colours; in the middle of light and dark, as a picture cannot ask which it is.
COLOURS = (
    "#3f82b5",
    "#c98228",
    "#5b9a57",
    "#9a6bad",
    "#c4605c",
    "#3f9c98",
    "#a08a2e",
    "#b7648f",
    "#6f7fc4",
    "#7a8590",
    "#9a9a94",
)


class MapPages:
    """Answers to what asks for the map."""

    def __init__(self, parts: Parts, options: PageOptions, frame: Frame) -> None:
        assert parts.drawable is not None
        self._frame = frame
        self._map = Map(parts.service, parts.drawable)
        self._colour_by = options.colour_by

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        for path, name, answer in (
            ("/page/map", "map", self.page),
            ("/page/map.json", "map_json", self.json),
            ("/page/map.svg", "map_svg", self.svg),
        ):
            router.add_api_route(path, answer, methods=["GET"], name=f"page_{name}")

    def page(self, request: Request, asked: Annotated[MapQuery, Query()]) -> Response:
        """Show the map and a page of its table."""
        points = self._map.points()
        ways = self._ways(points)
        groups, by = _grouped(points, ways, asked.by)
        pages = max(1, -(-len(points.items) // _ROWS))
        if asked.page > pages:
            raise HTTPException(404, f"The table has {pages} pages, there is no page {asked.page}.")
        first = (asked.page - 1) * _ROWS
        rows = [
            {
                "item": item,
                "group": groups.names[groups.of_point[row]] if by else "",
                "nearest": points.items[int(points.nearest[row])] if len(points.items) > 1 else None,
            }
            for row, item in enumerate(points.items[first : first + _ROWS], first)
        ]
        return self._frame.page(
            request, "map", points=points, groups=groups, by=by, ways=ways, rows=rows, first=first,
            number=asked.page, pages=pages, legend=_legend(groups), of_list=by in points.lists,
        )  # fmt: skip

    def json(self, asked: Annotated[MapQuery, Query()]) -> Response:
        """Answer with the points, column by column."""
        points = self._map.points()
        groups, _ = _grouped(points, self._ways(points), asked.by)
        return JSONResponse(
            {
                "ids": [item.item_id for item in points.items],
                "titles": [shown.title(item) for item in points.items],
                "x": points.places[:, 0].tolist(),
                "y": points.places[:, 1].tolist(),
                "new": [int(item.new) for item in points.items],
                "picture": [int(item.has_picture) for item in points.items],
                "group": groups.of_point,
                "groups": groups.names,
                "colours": [colour for _, _, colour in _legend(groups)],
                "edge": EDGE,
            },
            headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
        )

    def svg(self, asked: Annotated[MapQuery, Query()]) -> Response:
        """Answer with the map as a picture, for browsers that run no script."""
        points = self._map.points()
        groups, _ = _grouped(points, self._ways(points), asked.by)
        headers = {
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        }
        return Response(_drawing(points, groups), 200, headers, "image/svg+xml")

    def _ways(self, points: Points) -> tuple[str, ...]:
        """Return by what the map can be coloured: what it was told, lists of the catalogue, the modality."""
        by_modality = (MODALITY,) if points.dominant else ()
        return tuple(dict.fromkeys((*self._colour_by, *points.lists, *by_modality)))


def _grouped(points: Points, ways: Sequence[str], by: str) -> tuple[Groups, str]:
    """Return the groups, and by what they are made: the first way where none is asked for."""
    if by and by not in ways:
        raise HTTPException(
            404, f"The map cannot be coloured by {by!r}. It can be by: {', '.join(ways) or 'nothing'}."
        )
    chosen = by or next(iter(ways), "")
    if not chosen:
        whole = len(points.items)
        return Groups(("items",), (whole,), (0,) * whole), ""
    return group(points, chosen), chosen


def _legend(groups: Groups) -> list[tuple[str, int, int]]:
    """Return for each group its name, its size and the number of its colour."""
    last = {"other": 9, "not known": 10}
    return [
        (name, count, last.get(name, place))
        for place, (name, count) in enumerate(zip(groups.names, groups.counts, strict=True))
    ]


def _drawing(points: Points, groups: Groups) -> str:
    """Draw one path a group and shape: dots for items known from training, diamonds for new ones."""
    margin = EDGE // 40
    width = EDGE + 2 * margin
    size = 120 if len(points.items) < 2000 else 60
    dots: dict[int, list[str]] = {}
    diamonds: dict[int, list[str]] = {}
    colours = [colour for _, _, colour in _legend(groups)]
    for item, (x, y), place in zip(points.items, points.places.tolist(), groups.of_point, strict=True):
        if item.new:
            shape = f"M{x + margin} {y + margin - size}l{size} {size}-{size} {size}-{size}-{size}z"
            diamonds.setdefault(colours[place], []).append(shape)
        else:
            dots.setdefault(colours[place], []).append(f"M{x + margin} {y + margin}h0")
    drawn = [
        f'<path d="{"".join(found)}" stroke="{COLOURS[colour]}" stroke-width="{size}" '
        f'stroke-linecap="round" stroke-opacity=".8"/>'
        for colour, found in sorted(dots.items())
    ]
    drawn += [
        f'<path d="{"".join(found)}" fill="{COLOURS[colour]}" stroke="#20262b" stroke-width="{size // 5}"/>'
        for colour, found in sorted(diamonds.items())
    ]
    # Numbers and colours only: nothing from outside enters.
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {width}" fill="none">'
    return f"{head}{''.join(drawn)}</svg>"
