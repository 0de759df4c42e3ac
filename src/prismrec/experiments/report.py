"""What a bench leaves for people: tables, drawings and a page."""

import re

from prismrec.base.files import write_text
from prismrec.experiments import render
from prismrec.experiments.page import standalone, write_page
from prismrec.experiments.plots import drawings
from prismrec.experiments.state import Bench
from prismrec.experiments.tables import Table, make_tables

MARKDOWN, LATEX, PAGE, PLOTS = "tables.md", "tables.tex", "report.html", "plots"


def write_reports(bench: Bench) -> tuple[list[Table], dict[str, str]]:
    """Write the tables and the page of a bench, as far as it is finished.

    Returns
    -------
    tables
        What was written.
    files
        Where, by name.
    """
    tables = make_tables(bench)
    section = bench.plan.bench
    write_text(bench.out / MARKDOWN, render.markdown(tables, section.name, section.about))
    write_text(bench.out / LATEX, render.latex(tables, section.name))
    write_page(bench.out / PAGE, bench, tables)
    for table in tables:
        for drawing in drawings(bench, table):
            name = f"{_slug(table.data)}-{table.candidates}-{drawing.name}.svg"
            write_text(bench.out / PLOTS / name, standalone(drawing))
    return tables, {name: str(bench.out / name) for name in (MARKDOWN, LATEX, PAGE, PLOTS)}


def _slug(name: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", name.lower())) or "data"
