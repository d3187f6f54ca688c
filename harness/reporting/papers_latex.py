r"""A paper's filled tables as LaTeX: a booktabs table for each, published beside ours.

The preamble takes ``\usepackage{booktabs}`` and nothing else. Whatever comes from files is escaped;
letters that plain pdfLaTeX has no glyph for become their nearest ASCII ones, or a question mark.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence

from harness.reporting.papers_fill import Cell, FilledTable, Verdict
from harness.reporting.papers_schema import Paper
from harness.reporting.papers_text import figure, references, summary

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\char34}",
    "`": "{`}",
    # After a row's end, these would be its options.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
}

_MARKS = {Verdict.REPRODUCED: "=", Verdict.CLOSE: r"\approx", Verdict.OFF: r"\neq"}
_WORDS = {Verdict.NOT_RUN: "--", Verdict.NOT_COMPARABLE: "n/c", Verdict.OUT_OF_SCOPE: "o/s"}

#: Columns of figures that fit beside each other; a wider table is broken into blocks.
_WIDTH = 4
#: Letters in a line of a heading.
_HEADING = 14


def latex(paper: Paper, tables: Sequence[FilledTable]) -> str:
    """Return the tables of a paper as LaTeX, to be included in a document."""
    head = [
        f"% {' '.join(summary(tables).split())}",
        "% Written by clamr-bench; needs \\usepackage{booktabs}.",
    ]
    return "\n".join([*head, *(_table(paper, table) for table in tables)]) + "\n"


def escape(text: str) -> str:
    """Return text that LaTeX prints as it is, in one line."""
    escaped = "".join(map(_character, " ".join(text.split())))
    for pair in ("--", "''"):  # A dash, and a quotation mark.
        while pair in escaped:
            escaped = escaped.replace(pair, "{}".join(pair))
    return escaped


def _character(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character.isascii():
        return character if character.isprintable() else "?"
    near = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return escape(near) if near and near.isprintable() else "?"


def _table(paper: Paper, table: FilledTable) -> str:
    labels = [column.label for column in table.table.columns]
    cells = {(cell.row, cell.column): cell for cell in table.cells}
    rows = [row.label for row in table.table.rows]
    blocks = [labels[start : start + _WIDTH] for start in range(0, len(labels), _WIDTH)]
    lines = [
        r"\begin{table}",
        r"\centering\scriptsize\setlength{\tabcolsep}{2pt}",
        rf"\caption{{{escape(_caption(paper, table))}}}",
        rf"\label{{tab:{_label(paper.name)}-{_label(table.table.number)}}}",
    ]
    for number, block in enumerate(blocks):
        if number:
            lines.append(r"\par\medskip")
        lines += [rf"\begin{{tabular}}{{p{{.2\linewidth}}{'rl' * len(block)}}}", r"\toprule"]
        heads = [rf"\multicolumn{{2}}{{c}}{{\shortstack{{{_stacked(label)}}}}}" for label in block]
        lines.append(" & ".join(["", *heads]) + r" \\")
        rules = [rf"\cmidrule(lr){{{2 * i + 2}-{2 * i + 3}}}" for i in range(len(block))]
        lines += ["".join(rules), " & ".join(["Method", *["pub.", "ours"] * len(block)]) + r" \\"]
        lines.append(r"\midrule")
        for row in rows:
            found = [_pair(cells.get((row, label)), table.table.decimals) for label in block]
            lines.append(" & ".join([rf"\raggedright {escape(row)}", *found]) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
    beside = "".join(rf" {escape(line)}" for line in references(table))
    lines += [rf"\par\smallskip {_legend(paper)}{beside}", r"\end{table}"]
    return "\n".join(lines)


def _stacked(label: str) -> str:
    """Return a heading in short lines."""
    return r" \\ ".join(map(escape, textwrap.wrap(label, _HEADING)))


def _pair(cell: Cell | None, decimals: int) -> str:
    """Return the published figure, and ours with its verdict and interval."""
    if cell is None:
        return " & "
    published = figure(cell.published, decimals) + ("$^\\dagger$" if cell.doubt else "")
    if cell.verdict not in _MARKS or cell.ours is None:
        return f"{published} & {_WORDS.get(cell.verdict, '')}"
    mean, low, high = (f"{end:.1f}" for end in (cell.ours.mean, cell.ours.low, cell.ours.high))
    return f"{published} & ${_MARKS[cell.verdict]}{mean}_{{{low}}}^{{{high}}}$"


def _caption(paper: Paper, table: FilledTable) -> str:
    return f"{table.table.title} ({paper.name}, {table.table.place}): published and ours."


def _legend(paper: Paper) -> str:
    points = f"{paper.tolerance.points:g}"
    return (
        rf"Ours with its 95\% interval. $=$: within {points} points of the published figure; "
        rf"$\approx$: the published figure is within {points} points of our interval; $\neq$: "
        r"neither; --: not run; n/c: not comparable; o/s: out of scope; $^\dagger$: doubtful."
    )


def _label(text: str) -> str:
    """Return text as a part of a label, which takes no command."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)
