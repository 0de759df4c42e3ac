"""Facts that the pages state and the code decides."""

import re
from pathlib import Path

from prismrec.base import errors
from prismrec.data.splits import Candidates, SplitPlan

DOCS = Path(__file__).resolve().parents[2] / "docs"


def rows(page: str) -> list[list[str]]:
    """Return the cells of all table rows of a page."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_the_table_of_exit_codes_is_that_of_the_errors() -> None:
    stated = {
        name: int(cells[0])
        for cells in rows("cli.md")
        if cells[0].isdecimal()
        for name in re.findall(r"`(\w+)`", cells[2])
    }
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.PrismError)
    ]
    assert stated == {kind.__name__: kind.exit_code for kind in kinds}


def test_all_splits_and_candidates_are_described() -> None:
    first = {name for cells in rows("concepts/protocol.md") for name in re.findall(r"`(\w+)", cells[0])}
    assert first >= {plan.__name__ for plan in SplitPlan.__subclasses__()}
    assert first >= {str(mode) for mode in Candidates}
