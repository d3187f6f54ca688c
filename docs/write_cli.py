"""Writes docs/cli.md from the commands themselves: what `make docs` runs, and what a test holds."""

from __future__ import annotations

from pathlib import Path

import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from harness.cli.main import app

PAGE = Path(__file__).parent / "cli.md"

MANNERS = """\
Written by `make docs`; do not edit.

| status | meaning |
|---:|---|
| 0 | done, or complete already |
| 1 | something is not there, damaged, full, broken or refused: the message says what to do |
| 2 | the command line cannot be right: an address, an option, a setting |
| 130 | interrupted; what was complete is kept, and the same command goes on |

Results go to standard output; progress, notes and errors to standard error. Whatever lists things
takes `--json`. Colours are left out in pipes and where `NO_COLOR` is set.
`clamr-bench --install-completion` completes commands, tasks, retrievers and runs in bash, zsh and
fish.

"""


def page() -> str:
    """Return the page."""
    command = get_command(app)
    context = typer.Context(command, info_name="clamr-bench")
    text = get_docs_for_click(obj=command, ctx=context, name="clamr-bench", title="Command line")
    title, rest = text.split("\n\n", 1)
    return f"{title}\n\n{MANNERS}{rest}".rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
