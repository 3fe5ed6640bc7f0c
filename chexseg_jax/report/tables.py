"""Tables as people read them: Markdown, intervals, and a dash where there is no number."""

import math
import re
from collections.abc import Sequence


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, columns padded so that it reads as plain text too; the first is left-aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(w) if i else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return [line(header), line(rule), *map(line, rows)]


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash for None and nan."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def interval(estimate: float, lower: float, upper: float) -> str:
    """`0.270 [0.251, 0.288]`; a dash where there is no estimate."""
    if math.isnan(estimate):
        return "-"
    return number(estimate) if math.isnan(lower) else f"{estimate:.3f} [{lower:.3f}, {upper:.3f}]"


def latex(header: Sequence[str], rows: Sequence[Sequence[str]], *, below: str) -> list[str]:
    """Lines of the same table for LaTeX with the package booktabs; `**bold**` as in Markdown.

    Args:
      header, rows: the cells.
      below: a line across all columns at the table's end.
    """

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(_latex_cell, cells)) + r" \\"

    columns = "l" + "r" * (len(header) - 1)
    return [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        line(header),
        r"\midrule",
        *map(line, rows),
        r"\midrule",
        rf"\multicolumn{{{len(header)}}}{{l}}{{{_latex_cell(below)}}} \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


#: What a backslash before it does not make a letter.
_LATEX = {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}


def _latex_cell(text: str) -> str:
    text = re.sub(r"[\\^~&%$#_{}]", lambda m: _LATEX.get(m[0], f"\\{m[0]}"), text)
    return re.sub(r"\*\*(.*?)\*\*", r"\\textbf{\1}", text)
