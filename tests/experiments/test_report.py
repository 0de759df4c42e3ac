import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from prismrec.evaluation.result import Interval
from prismrec.experiments.against import published_figures, set_beside
from prismrec.experiments.page import write_page
from prismrec.experiments.plots import bars, drawings, scatter
from prismrec.experiments.report import write_reports
from prismrec.experiments.state import Bench
from prismrec.experiments.tables import make_tables
from prismrec.models.catalogue import config_of

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def test_bars_are_as_long_as_their_values() -> None:
    drawn = parsed(bars([("a<b", [Interval(mean=0.2, low=0.1, high=0.3)]), ("c", [Interval(mean=0.1)])], "l"))
    widths = [float(rect.get("width", 0)) for rect in drawn.iter(f"{SVG}rect")]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    (spread,) = [line for line in drawn.iter(f"{SVG}line") if line.get("class") == "spread"]
    length = float(spread.get("x2", 0)) - float(spread.get("x1", 0))
    assert length == pytest.approx(widths[0], abs=0.2)
    assert "a<b" in [text.text for text in drawn.iter(f"{SVG}text")]


def test_points_stand_where_time_and_figure_say() -> None:
    drawn = parsed(scatter([("a", 1.0, 0.1), ("b", 10.0, 0.2), ("c", 100.0, 0.2)], "l"))
    xs = [float(dot.get("cx", 0)) for dot in drawn.iter(f"{SVG}circle")]
    ys = [float(dot.get("cy", 0)) for dot in drawn.iter(f"{SVG}circle")]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert ys[0] > ys[1] == ys[2]


def test_all_drawings_of_a_bench(done: Bench) -> None:
    table = make_tables(done)[0]
    found = {drawing.name: drawing for drawing in drawings(done, table)}
    assert {"bars", "time", "slice-0", "experts", "modalities"} <= set(found)
    for drawing in found.values():
        parsed(drawing.svg)
    # Slices are cut at the shortest lists, which the heading says.
    assert found["slice-0"].title.startswith("ndcg@5 by ")
    assert found["modalities"].legend == ("image", "text")
    assert len(found["experts"].legend) == 4


def test_the_page_asks_for_nothing_and_escapes(done: Bench, tmp_path: Path) -> None:
    table = make_tables(done)[0]
    write_page(tmp_path / "page.html", done, [table])
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", text)
    assert "content-profile" in text
    assert text.count("<svg") == len(drawings(done, table))


def test_reports_are_written(done: Bench) -> None:
    tables, files = write_reports(done)
    assert len(tables) == 2
    assert set(files) == {"tables.md", "tables.tex", "report.html", "plots"}
    plots = sorted(Path(files.pop("plots")).iterdir())
    for path in [*map(Path, files.values()), *plots]:
        assert path.stat().st_size > 500
    assert {"shop-strict-bars.svg", "shop-as_released-time.svg"} <= {path.name for path in plots}
    for path in plots:
        ElementTree.parse(path)


def test_published_figures_are_those_of_the_paper() -> None:
    source = published_figures("mamex-table1")
    found = {(row.data, row.model): row.figures for row in source.rows}
    assert len(found) == 24
    baby = found["amazon-baby", "mamex"]
    assert (baby["recall@10"], baby["ndcg@20"]) == (0.0512, 0.0363)
    assert found["amazon-sport", "milk"]["recall@20"] == 0.0998
    for data, gain in (("amazon-baby", 0.0775), ("amazon-clothing", 0.0613), ("amazon-sport", 0.2051)):
        # The gains over MILK that the paper prints follow from its figures.
        ours, milk = found[data, "mamex"]["ndcg@10"], found[data, "milk"]["ndcg@10"]
        assert ours / milk - 1 == pytest.approx(gain, abs=5e-5)


def test_other_data_are_not_set_beside_a_paper(done: Bench) -> None:
    beside = set_beside(published_figures("mamex-table1"), make_tables(done), done.plan)
    assert all(row[2] == "paper" for row in beside.rows)
    assert beside.notes[0].startswith("None of this bench's data sets")
    assert any("cold items of validation and test together" in note for note in beside.notes)


def test_the_papers_data_are_set_beside_it_with_the_nearest_candidates(done: Bench, tmp_path: Path) -> None:
    from dataclasses import replace

    tables = [replace(table, data="amazon-baby") for table in make_tables(done)]
    rows = tuple(
        replace(row, data=row.data.model_copy(update={"name": "amazon-baby"})) for row in done.plan.rows
    )
    beside = set_beside(published_figures("mamex-table1"), tables, replace(done.plan, rows=rows))
    place = next(n for n, row in enumerate(beside.rows) if row[:2] == ("amazon-baby", "MAMEX"))
    ours = beside.rows[place + 1]
    assert ours[:3] == ("amazon-baby", "mamex", "here, as_released")
    assert ours[3 + 2].startswith(f"{tables[1].lines[3].figures['ndcg@10'].mean:.4f}")
    assert "Not run here: amazon-clothing, amazon-sport." in beside.notes
    written = beside.write(tmp_path)
    assert "as\\_released" in Path(written["against-mamex-table1.md"]).read_text()


@pytest.mark.parametrize("name", ["mamex-table1", "mmrec"])
def test_published_figures_are_of_models_that_there_are(name: str) -> None:
    source = published_figures(name)
    assert len({(row.data, row.model) for row in source.rows}) == len(source.rows)
    for row in source.rows:
        assert config_of(row.model).name == row.model
        assert 0 < row.figures["recall@10"] < row.figures["recall@20"] < 1
        assert row.source
    assert source.protocol
