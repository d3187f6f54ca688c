"""The arrows between the rooms, and what keeps the command line quick."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    p for room in ("harness", "retrievers", "tasks") for p in (ROOT / room).rglob("*.py")
)

#: Lowest first: a module may import from its own layer and from those before it. A module that is
#: not listed lies in the middle: it may import nothing of `runner`, `reporting` and `cli`, and
#: nothing below may import it.
LAYERS = (
    ("", "errors"),
    (
        "types",
        "documents",
        "settings",
        "plugin",
        "progress",
        "files",
        "workspace",
        "coverage",
        "workers",
        "team",
    ),
    ("late_interaction",),
    ("index",),
    ("retriever", "task"),
    (),  # all others
    ("runner",),
    ("training",),
    ("reporting",),
    ("cli",),
)
MIDDLE = LAYERS.index(())


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every import wherever it stands: at the top, in a function, under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from harness import types` imports the module harness.types.
            if node.module == "harness":
                yield from (
                    (node.lineno, f"harness.{a.name}") for a in node.names if a.name.islower()
                )
            else:
                yield node.lineno, node.module


def layer(module: str) -> int:
    room = module.partition(".")[2].partition(".")[0]
    return next((i for i, rooms in enumerate(LAYERS) if room in rooms), MIDDLE)


def found(*sources: Path) -> list[str]:
    """Imports that go against the arrows."""
    wrong = []
    for path in sources:
        module = module_of(path)
        for line, name in imports(path):
            if name.partition(".")[0] == "click":
                wrong.append(f"{module}:{line} imports click; typer vendors its own")
            if not module.startswith("harness"):
                continue
            if name.partition(".")[0] in ("retrievers", "tasks"):
                wrong.append(f"{module}:{line} imports {name}; harness finds plugins by name")
            if name.partition(".")[0] == "harness" and layer(name) > layer(module):
                wrong.append(f"{module}:{line} imports {name}, which lies above it")
    return wrong


def test_arrows_run_one_way() -> None:
    assert len(SOURCES) > 20
    assert found(*SOURCES) == []


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("harness/types.py", "from harness.retriever import Retriever"),
        ("harness/late_interaction/maxsim.py", "def f():\n    from harness import runner"),
        ("harness/retriever.py", "import harness.dataset.store"),
        ("harness/evaluation.py", "from harness.cli.main import app"),
        ("harness/runner.py", "from harness.reporting.leaderboard import render"),
        ("harness/registry.py", "import tasks.sample"),
        ("retrievers/mine.py", "import click.core"),
    ],
)
def test_an_arrow_against_the_direction_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: str, line: str
) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / room
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n")
    assert len(found(path)) == 1


def test_no_assert_in_source() -> None:
    """`python -O` drops asserts: what must hold is an error with a message."""
    asserts = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]
    assert asserts == []


def test_modules_stay_short() -> None:
    lengths = {p.relative_to(ROOT): len(p.read_text("utf-8").splitlines()) for p in SOURCES}
    assert {path: lines for path, lines in lengths.items() if lines > 400} == {}


HELP = """
import contextlib, io, json, sys
from harness.cli.main import main
sys.argv = ["clamr-bench", "--help"]
with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
    main()
print(json.dumps([shown.getvalue(), sorted(sys.modules)]))
"""


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    shown, modules = json.loads(done.stdout)
    assert "Usage" in shown
    heavy = {"torch", "scipy", "pyarrow", "transformers", "bm25s", "ir_measures", "av", "PIL"}
    assert heavy.isdisjoint(modules)
