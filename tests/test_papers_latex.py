"""The LaTeX of papers' tables: everything escaped, every row as wide as its columns say."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.reporting import papers
from harness.reporting.papers_fill import FilledTable, Verdict, fill
from harness.reporting.papers_jobs import Availability
from harness.reporting.papers_latex import escape, latex
from harness.reporting.papers_schema import Paper
from harness.reporting.papers_text import markdown
from harness.results import ResultsStore
from harness.results.schema import Estimate
from tests.conftest import Command
from tests.papers_cases import Lacking, paper, write

HOSTILE = (
    r"\input{/etc/passwd} }\end{tabular} $x^2$ & a_b # 50% ~ [*] {\bf} -- ''`` \\ "
    "tab\tnew\nline é ｆ 中文 \u202e \x07 <script>|\"'"
)


def filled(path: Path, results: Path) -> tuple[Paper, list[FilledTable]]:
    found = papers.load(str(path))
    runs = list(ResultsStore(results).runs())
    return found, fill(found, found.tables, runs, Availability())


def hostile() -> dict[str, Any]:
    values = paper()
    values["title"] = values["notes"][0] = values["tolerance"]["reason"] = HOSTILE
    table = values["tables"][0]
    table["number"] = table["title"] = table["place"] = HOSTILE
    table["columns"][0]["label"] = f"0 {HOSTILE}"
    table["rows"][0]["label"] = f"[{HOSTILE}"
    table["rows"][1]["label"] = f"*{HOSTILE}"
    table["rows"][0]["doubts"] = {f"0 {HOSTILE}": HOSTILE}
    values["methods"]["secret"]["reason"] = HOSTILE
    return values


def check_structure(text: str) -> None:
    """Environments are balanced, braces are, and each row has as many cells as columns."""
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    stack: list[str] = []
    width = 0
    for line in text.splitlines():
        for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", line):
            if kind == "begin":
                stack.append(name)
            else:
                assert stack.pop() == name
        opened = re.match(r"\\begin\{tabular\}\{p\{\.2\\linewidth\}((?:rl)+)\}", line)
        if opened:
            width = 1 + len(opened[1])
        elif line.endswith(r" \\"):
            spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + spans == width, line
    assert stack == []


def test_the_structure_holds(bench: Command, v1: Path, tmp_path: Path) -> None:
    path = write(tmp_path)
    assert bench("reproduce", path).status == 0
    text = latex(*filled(path, tmp_path / "results"))
    check_structure(text)
    assert text.count(r"\begin{table}") == 2
    assert r"\toprule" in text
    assert re.search(r"& \$\\neq\d+\.\d_\{\d+\.\d\}\^\{\d+\.\d\}\$", text), "off, with interval"
    assert "61.30 & o/s" in text
    assert "1.0 & n/c" in text
    assert r"$^\dagger$" in text
    check_structure(latex(papers.load("clamr"), filled_of("clamr", tmp_path)))


def filled_of(name: str, results: Path) -> list[FilledTable]:
    found = papers.load(name)
    return fill(found, found.tables, list(ResultsStore(results).runs()), Availability())


def test_hostile_text_is_text(tmp_path: Path) -> None:
    text = latex(*filled(write(tmp_path, hostile()), tmp_path))
    check_structure(text)
    assert text.isascii()
    allowed = {
        "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar",
        "char", "begin", "end", "centering", "scriptsize", "setlength", "tabcolsep", "caption",
        "label", "toprule", "midrule", "bottomrule", "cmidrule", "multicolumn", "par", "smallskip",
        "medskip", "approx", "neq", "dagger", "usepackage", "linewidth", "raggedright",
        "shortstack",
    }  # fmt: skip
    assert set(re.findall(r"\\([A-Za-z]+)", text)) <= allowed


@given(st.text(max_size=40))
def test_any_text_is_escaped(text: str) -> None:
    escaped = escape(text)
    assert escaped.isascii()
    assert escaped.isprintable()
    bare = re.sub(r"\\(text\w+\{\}|[{}$&#%_]|char34)", "", escaped)
    assert not re.search(r"[\\$&#%_^~]", bare)
    assert bare.count("{") == bare.count("}")
    assert "--" not in escaped


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=40))
def test_markdown_cells_stay_in_their_cells(text: str) -> None:
    values = paper()
    values["tables"][0]["rows"][3]["label"] = f"x{text}"
    found = Paper.model_validate(values)
    (table, *_) = fill(found, found.tables, [], Lacking())
    lines = [line for line in markdown(found, [table]).splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(table.cells)
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines} == {8}


def with_figures(table: FilledTable) -> FilledTable:
    """The table as if every cell had been run."""
    ours = Estimate(mean=55.5, low=54.4, high=56.6)
    cells = (replace(cell, ours=ours, verdict=Verdict.CLOSE) for cell in table.cells)
    return replace(table, cells=tuple(cells))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["hostile", "clamr", "preflmr"])
def test_it_compiles_and_fits_the_page(tmp_path: Path, which: str) -> None:
    program = shutil.which("pdflatex")
    if program is None:
        pytest.skip("no pdflatex here")
    path = str(write(tmp_path, hostile())) if which == "hostile" else which
    text = latex(papers.load(path), list(map(with_figures, filled_of(path, tmp_path))))
    (tmp_path / "tables.tex").write_text(text, encoding="utf-8")
    (tmp_path / "main.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
        "\\input{tables}\n\\end{document}\n"
    )
    done = subprocess.run(
        [program, "-halt-on-error", "-interaction=nonstopmode", "main.tex"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "main.pdf").is_file()
    assert "Overfull" not in done.stdout or which == "hostile", done.stdout
