import re
from html.parser import HTMLParser

import numpy as np
import pytest

from prismrec.evaluation.result import Interval
from prismrec.evaluation.robustness import Experiment, Variant, measure_chart
from prismrec.evaluation.robustness_page import curve_chart, heat_map, markdown, write_page
from prismrec.evaluation.robustness_result import (
    Chart,
    CurvatureRow,
    Curve,
    Flatness,
    GapRow,
    Point,
    Protocol,
    RobustnessResult,
)

FLAT = Flatness(
    batches=4,
    loss=0.5,
    by_differences=True,
    gaps=[GapRow(radius=0.1, relative=False, gap=0.02, random=0.001)],
    curvatures=[CurvatureRow(relative=True, largest=3.5, trace=12.0, trace_error=0.4)],
    along=[-1.0, 0.0, 1.0],
    surface=[[2.0, 1.0, 2.0], [1.0, 0.5, 1.0], [2.0, 1.0, 3.0]],
)


@pytest.fixture
def result():
    clean = np.linspace(0.1, 0.5, 30)
    experiment = Experiment(
        Protocol.NOISE,
        "Noise, <image>",
        "noise | %",
        "about",
        (0.1, 1.0),
        (
            Variant("noise", lambda level, seed: clean * (1 - level / 2)),
            Variant("shift", lambda level, seed: clean, control=True),
        ),
    )
    degree = Chart(
        protocol=Protocol.DEGREE,
        title="Users by degree",
        axis="interactions",
        about="x",
        curves=[
            Curve(
                name="as it is",
                points=[
                    Point(level=n, label=f"{n}-9", value=Interval(mean=0.1 * n), users=3) for n in (1, 2)
                ],
            )
        ],
    )
    none = Chart(
        protocol=Protocol.ADVERSARIAL, title="Adversarial", axis="", about="", skipped="not applicable: why"
    )
    return RobustnessResult(
        run="run_1",
        model="<b>m</b>",
        dataset="shop",
        part="valid",
        candidates="strict",
        n_candidates=20,
        metric="ndcg@10",
        repeats=2,
        seed=0,
        users=30,
        clean=Interval(mean=0.3, low=0.2, high=0.4),
        charts=[measure_chart(experiment, clean, 2, 0), degree, none],
        flatness=FLAT,
        notes=["A note."],
        test_openings_before=2,
    )


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in ("meta", "link", "line", "rect", "circle", "polygon", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("line", "rect", "circle", "polygon", "polyline"):
            return
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_data(self, data):
        self.text += data


def test_the_page(result, tmp_path):
    write_page(tmp_path / "r.html", result)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "script" not in tags.seen
    assert "://" not in page
    assert page.count("<svg") == 3
    for text in (
        "<b>m</b>",
        "Noise, <image>",
        "not applicable: why",
        "A note.",
        "opened 2 times",
        "3.5",
        "0.02",
    ):
        assert text in tags.text
    assert "<b>m</b>" not in page.replace("&lt;b&gt;m&lt;/b&gt;", "")


def test_curves_stand_where_their_numbers_say(result):
    drawing = str(curve_chart(result.charts[0], 'a "label"'))
    assert drawing.count("<polyline") == drawing.count("<polygon") == 2
    lines = re.findall(r'<polyline class="([^"]*)" points="([^"]*)"', drawing)
    assert "control" not in lines[0][0]
    assert "control" in lines[1][0]
    (x0, y0), (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in lines[0][1].split())
    assert x1 - x0 == pytest.approx((x2 - x0) / 10, abs=0.2)
    # 0.3, 0.285 and 0.15: lower on the drawing, in proportion.
    assert (y1 - y0) / (y2 - y0) == pytest.approx(0.1, abs=0.01)
    assert "&#34;label&#34;" in drawing
    grouped = str(curve_chart(result.charts[1], "groups"))
    assert grouped.count("<circle") == 2
    assert "<polyline" not in grouped


def test_a_wide_interval_does_not_leave_the_drawing(result):
    wide = Point(
        level=0, label="a", value=Interval(mean=0.2), users=3, repeats=Interval(mean=0.2, low=-4, high=5)
    )
    chart = result.charts[1].model_copy(update={"curves": [Curve(name="x", points=[wide])]})
    ends = [
        float(y)
        for y in re.findall(r'class="line s0"[^/]*y1="([^"]*)" y2="([^"]*)"', str(curve_chart(chart, "")))[0]
    ]
    assert all(0 <= y <= 280 for y in ends)


def test_the_surface_is_a_map():
    drawing = str(heat_map(FLAT))
    shades = [float(s) for s in re.findall(r'fill-opacity="([\d.]+)"', drawing)]
    assert len(shades) == 9
    assert shades[4] == 0.0
    assert shades[8] == 1.0
    assert shades[0] == pytest.approx(0.6)


def test_the_table(result):
    text = markdown(result)
    rows = [line for line in text.splitlines() if line.startswith("| noise")]
    assert len(rows) == 2  # the head and the curve
    assert rows[0] == "| noise \\| % | 0 % | 10 % | 100 % |"
    assert rows[1].count("\u2217+") == 2
    assert "0.3000 [" in rows[1]
    assert "| shift (control) |" in text
    assert "not applicable: why" in text
    assert "| relative | 3.5 | 12 | 0.4 |" in text
    assert "by differences" in text
    assert "\\<b\\>m\\</b\\>" in text
