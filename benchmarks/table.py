"""Print results/latest.json as a Markdown table: python benchmarks/table.py"""

from harness import read


def table() -> str:
    """Return the table."""
    entries = read()
    lines = [
        "| what | against | ratio | goal | met | ours | theirs | detail |",
        "|---|---|---:|---:|---|---:|---:|---|",
    ]
    for entry in entries:
        ratio = "not measured" if entry["ratio"] is None else f"{entry['ratio']:.2f}"
        goal = "" if entry["goal"] is None else f"{entry['goal']:g}"
        met = {True: "yes", False: "**no**", None: ""}[entry["met"]]
        figures = [_figure(entry[side], entry["unit"]) for side in ("ours", "theirs")]
        cells = [entry["name"], entry["against"], ratio, goal, met, *figures, entry["detail"]]
        lines.append(f"| {' | '.join(cells)} |")
    if not any("cuda" in entry["detail"].lower() for entry in entries):
        lines.append("| the same on a GPU | | not measured | | | | | none was at hand |")
    return "\n".join([*lines, "", *_conditions(entries)])


def _conditions(entries: list[dict]) -> list[str]:
    seen = {}
    for entry in entries:
        packages = {**entry["machine"]["packages"], **entry["machine"]["peers"]}
        versions = ", ".join(f"{name} {number}" for name, number in packages.items())
        on = entry["machine"]
        where = f"{on['processor']}, {on['cores']} cores, Python {on['python']}"
        seen[entry["command"]] = f"- `{entry['command']}`, {entry['date']}, {where}; {versions}"
    return list(seen.values())


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit != "s":
        return f"{value:,.3g} {unit}"
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


if __name__ == "__main__":
    print(table())
