"""Tables as Markdown and LaTeX, for papers and read-me files."""

from collections.abc import Sequence

from prismrec.evaluation.result import Interval
from prismrec.experiments.compare import Versus
from prismrec.experiments.notes import Line
from prismrec.experiments.tables import Table

_SIGNS = {"better": "▲", "worse": "▼", "tie": "="}
_TEX_SIGNS = {"better": r"$\blacktriangle$", "worse": r"$\triangledown$", "tie": r"$\approx$"}


def figure(interval: Interval) -> str:
    """Write a mean with half its interval."""
    if interval.low is None:
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.4f} ± {interval.mean - interval.low:.4f}"


def verdict(versus: Versus) -> str:
    """Write a comparison: a sign, the difference, p and the effect size."""
    effect = "" if versus.cohen_d is None else f", d {versus.cohen_d:+.2f}"
    word = "tie" if versus.verdict == "tie" else versus.verdict
    return f"{_SIGNS[versus.verdict]} {word} {versus.difference.mean:+.4f} (p {p_value(versus.p)}{effect})"


def p_value(p: float) -> str:
    """Write a p-value with two digits."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def header(table: Table, metrics: Sequence[str] | None = None) -> list[str]:
    """Return the names of the columns; `metrics` chooses some of the table's."""
    names = ["model", *(table.metrics if metrics is None else metrics), f"{table.metric}, validation"]
    names += ["against the best"]
    if table.baseline is not None:
        names.append(f"against {table.baseline}")
    return [*names, "seeds", "training, s"]


def cells(line: Line, table: Table, metrics: Sequence[str] | None = None) -> list[str]:
    """Return a row's cells under `header`."""
    names = table.metrics if metrics is None else metrics
    said = [line.label]
    said += [figure(line.figures[name]) if name in line.figures else "–" for name in names]  # noqa: RUF001
    said.append(figure(line.valid) if line.valid is not None else "–")  # noqa: RUF001
    said.append(_against(line, line.versus_best, "best" if line.best else ""))
    if table.baseline is not None:
        said.append(_against(line, line.versus_baseline, "baseline" if line.label == table.baseline else ""))
    return [*said, str(line.seeds), "" if line.seconds is None else f"{line.seconds:,.1f}"]


def _against(line: Line, versus: Versus | None, own: str) -> str:
    if own or line.oracle:
        return own or "not compared"
    return "" if versus is None else verdict(versus)


def markdown(tables: Sequence[Table], title: str, about: str = "") -> str:
    """Return all tables as GitHub-flavoured Markdown."""
    parts = [f"# {plain(title)}", ""]
    if about:
        parts += [plain(about), ""]
    for table in tables:
        names = header(table)
        parts += [f"## {plain(table.title)}", "", "| " + " | ".join(plain(name) for name in names) + " |"]
        parts.append("|---|" + "---:|" * (len(names) - 1))
        for line in table.lines:
            row = [plain(cell) for cell in cells(line, table)]
            if line.best:
                row[0] = f"**{row[0]}**"
            parts.append("| " + " | ".join(row) + " |")
        parts += ["", *(f"- {plain(note)}" for note in table.notes), ""]
    return "\n".join(parts).rstrip() + "\n"


def plain(text: str) -> str:
    """Keep a name from breaking a table: one line, no markup."""
    flat = " ".join(text.split())
    for sign in "\\`*_<>|#[]":
        flat = flat.replace(sign, f"\\{sign}")
    return flat


def latex(tables: Sequence[Table], title: str) -> str:
    """Return all tables as LaTeX; they need the packages booktabs and amssymb."""
    parts = [f"% {' '.join(title.split())}. Needs \\usepackage{{booktabs,amssymb}}", ""]
    for table in tables:
        lines = [
            r"\begin{table}",
            r"\centering",
            r"\caption{" + tex(f"{table.title}. {table.notes[0]}") + "}",
            r"\begin{tabular}{l" + "r" * len(table.metrics) + "}",
            r"\toprule",
            " & ".join(["Model", *(tex(name) for name in table.metrics)]) + r" \\",
            r"\midrule",
        ]
        lines += [_tex_line(line, table) for line in table.lines]
        lines += [r"\bottomrule", r"\end{tabular}"]
        said = " ".join([_tex_legend(table), *(tex(note) for note in table.notes[1:])])
        lines += [r"\par\smallskip\footnotesize " + said, r"\end{table}", ""]
        parts += lines
    return "\n".join(parts)


def _tex_line(line: Line, table: Table) -> str:
    found = [_tex_figure(line, name, table) for name in table.metrics]
    return " & ".join([tex(line.label), *found]) + r" \\"


def _tex_figure(line: Line, name: str, table: Table) -> str:
    if name not in line.figures:
        return "--"
    interval = line.figures[name]
    mean = f"{interval.mean:.4f}"
    shown = rf"\textbf{{{mean}}}" if line.best and name == table.metric else mean
    if interval.low is not None:
        shown += rf" {{\scriptsize$\pm${interval.mean - interval.low:.4f}}}"
    if name != table.metric:
        return shown
    if line.versus_best is not None and line.versus_best.verdict == "tie":
        shown += r"$^{\dagger}$"
    if line.versus_baseline is not None:
        shown += _TEX_SIGNS[line.versus_baseline.verdict]
    return shown


def _tex_legend(table: Table) -> str:
    said = [rf"Bold: highest mean of {tex(table.metric)}; $^{{\dagger}}$: a tie with it."]
    if table.baseline is not None:
        said.append(
            rf"$\blacktriangle$, $\triangledown$, $\approx$: better than, worse than, a tie with "
            rf"{tex(table.baseline)}."
        )
    return " ".join(said)


def tex(text: str) -> str:
    """Escape a text for LaTeX."""
    signs = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "–": "--",  # noqa: RUF001
        "<": "$<$",
        ">": "$>$",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    }
    return "".join(signs.get(sign, sign) for sign in text)
