"""Tables for people: Markdown, LaTeX, intervals, and a dash for a missing number."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells of a table; the first column holds the names of the rows. `**bold**` as in Markdown."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, padded so that it reads as plain text too; the first column is left-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return f"| {' | '.join((first[0].ljust(first[1]), *(cell.rjust(w) for cell, w in rest)))} |"

    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return [line(header), line(rule), *map(line, rows)]


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash for None and nan."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def interval(estimate: float, lower: float, upper: float) -> str:
    """`0.270 [0.251, 0.288]`; a dash if the estimate is nan."""
    if math.isnan(estimate) or math.isnan(lower):
        return number(estimate)
    return f"{estimate:.3f} [{lower:.3f}, {upper:.3f}]"


def latex(header: Sequence[str], rows: Sequence[Sequence[str]], *, below: str) -> list[str]:
    """Lines of a table for LaTeX with the package booktabs; `**bold**` as in Markdown.

    Args:
      header, rows: the cells.
      below: a last line across all columns.
    """

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(_latex_cell, cells)) + r" \\"

    return [
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        line(header),
        r"\midrule",
        *map(line, rows),
        r"\midrule",
        rf"\multicolumn{{{len(header)}}}{{l}}{{{_latex_cell(below)}}} \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


#: LaTeX's special characters that a backslash does not escape.
_LATEX = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "±": r"$\pm$",
}


def _latex_cell(text: str) -> str:
    text = re.sub(r"[\\^~±&%$#_{}]", lambda m: _LATEX.get(m[0], f"\\{m[0]}"), text)
    return re.sub(r"\*\*(.*?)\*\*", r"\\textbf{\1}", text)
