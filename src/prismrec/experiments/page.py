"""One self-contained page of a bench: tables, drawings, what was chosen and what failed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prismrec.base.files import write_text
from prismrec.experiments import render
from prismrec.experiments.plots import Drawing, drawings
from prismrec.experiments.state import Bench
from prismrec.experiments.tables import Table


def write_page(path: Path, bench: Bench, tables: Sequence[Table]) -> None:
    """Write the page; it runs no script, asks for nothing from outside, and all data are escaped."""
    shown = [
        {
            "table": table,
            "header": render.header(table),
            "rows": [(line, render.cells(line, table)) for line in table.lines],
            "drawings": drawings(bench, table),
        }
        for table in tables
    ]
    write_text(
        path,
        _template().render(
            bench=bench.plan.bench,
            tables=shown,
            searches=_searches(bench),
            failures=bench.failures(),
        ),
    )


def standalone(drawing: Drawing) -> str:
    """Return a drawing as a file of its own, with colours for a white page."""
    style = (
        "text{font:12.5px sans-serif;fill:#5c656e}.grid{stroke:#e5e0d7}.axis{stroke:#5c656e}"
        ".mark{stroke:#1c2126}.s0{fill:#2f6f9f}.s1{fill:#c47a1c}.s2{fill:#4f8a4c}.s3{fill:#8b5a9c}"
        ".s4{fill:#b4524f}.s5{fill:#6b7480}.spread{stroke:#1c2126;stroke-width:1.5}"
    )
    text = str(drawing.svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    head, sign, rest = text.partition(">")
    return f"{head}{sign}<style>{style}</style>{rest}\n"


def _searches(bench: Bench) -> list[dict[str, Any]]:
    return [
        {
            "label": state.row.label,
            "data": state.row.data.name,
            "metric": state.search.metric,
            "chosen": state.chosen,
            "trials": state.found.counted(state.search.trials),
        }
        for state in bench.states
        if state.search is not None and state.found is not None and state.found.trials
    ]


def _template() -> Any:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    # The style sheet is that of a run's report.
    loader = ChoiceLoader(
        [
            PackageLoader("prismrec.experiments", package_path=""),
            PackageLoader("prismrec.evaluation", package_path=""),
        ]
    )
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")
