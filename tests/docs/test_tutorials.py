"""The tutorials run, each as one session in an empty folder, and print what they say."""

import re
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
PAGES = ("your-own-model", "your-own-encoder", "a-papers-table", "from-notebook-to-service")


def test_no_page_is_forgotten() -> None:
    assert {path.stem for path in TUTORIALS.glob("*.md")} == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_every_block_is_well_formed_and_the_page_short(read_page, name) -> None:
    page = read_page(TUTORIALS / f"{name}.md")
    page.check({"prismrec", "pytest"})
    assert 60 <= len(page.text.splitlines()) <= 160


def test_your_own_model(read_page, session, capsys) -> None:
    told = read_page(TUTORIALS / "your-own-model.md").run()
    # All of the suite but what needs a GPU.
    assert re.search(r"^\d+ passed(, 1 skipped)? in", told, re.MULTILINE)
    figures = dict(
        re.findall(r"^(tower|content-profile): (0\.\d+), 0\.\d+ to 0\.\d+$", capsys.readouterr().out, re.M)
    )
    # A random order has 0.21.
    assert float(figures["tower"]) > 0.26
    assert abs(float(figures["tower"]) - float(figures["content-profile"])) < 0.06


def test_your_own_encoder(read_page, session, capsys) -> None:
    told = read_page(TUTORIALS / "your-own-encoder.md").run()
    printed = capsys.readouterr().out
    first, second, both = re.search(r"^(\d+) before, (\d+) after, (\d+) pictures$", printed, re.M).groups()
    assert first == "100"
    assert int(first) + int(second) == int(both)
    assert "('image', 'text')" in printed
    assert re.search(r"own vectors\s+108\s", told)
    assert "5 items added" in told


def test_a_papers_table(read_page, session, capsys) -> None:
    page = read_page(TUTORIALS / "a-papers-table.md")
    told = page.run()
    assert "12 runs: 0 are there, 12 to do." in told
    # The next call of the same recipe makes nothing again.
    assert len(list((session / "runs/bench/first/results").glob("*.parquet"))) == 12
    said = (session / "runs/bench/first/tables.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| ([^|]+) \| 0\.\d{4} ± [^|]+\|([^|]+)\|([^|]+)\|$", page.text, re.M)
    found = re.findall(
        r"^\| ([^|]+) \| 0\.\d{4} ± (?:[^|]+\|){5}([^|]+)\|([^|]+)\|[^|]+\|[^|]+\|$", said, re.M
    )
    # The rows and the verdicts are those of the page; figures may differ between machines.
    assert len(shown) == 4
    assert verdicts(shown) == verdicts(found[:4])
    for file in ("tables.tex", "report.html", "against-mamex-table1.md"):
        assert (session / "runs/bench/first" / file).is_file()
    assert "nothing of ours can stand beside its figures" in told
    assert "nothing of ours can\nstand beside its figures" in page.text
    assert "kernel-ridge" in capsys.readouterr().out


def verdicts(rows: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    return [(label, best.split()[0], baseline.split()[0]) for label, best, baseline in rows]


def test_from_notebook_to_service(read_page, session, capsys) -> None:
    told = read_page(TUTORIALS / "from-notebook-to-service.md").run()
    printed = capsys.readouterr().out
    assert re.search(r"^version\s+[0-9a-f]{32}|^ version\s+[0-9a-f]{32}", told, re.M)
    assert re.search(r"^1 \S.*\n2 \S.*\n3 \S", printed, re.M)
    assert "['new-1']\nnew-1 [{'item_id': " in printed
    assert (session / "items").is_dir()
