"""``clamr-bench``: the commands, and how errors are shown.

Nothing heavy is imported here: ``--help`` and completion answer at once.
"""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

import harness
from harness.cli import (
    cache,
    compare,
    data,
    doctor,
    enrich,
    evaluate,
    explain,
    fuse,
    leaderboard,
    plugins,
    report,
    reproduce,
    results,
    run,
    submit,
    tables,
    train,
)
from harness.errors import ClamrBenchError, PluginError
from harness.files import storage_error

app = typer.Typer(
    name="clamr-bench",
    help="Benchmark multimodal retrieval: video, speech, on-screen text, metadata and images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
run.register(app)
evaluate.register(app)
compare.register(app)
fuse.register(app)
explain.register(app)
report.register(app)
submit.register(app)
train.register(app)
plugins.register(app)
leaderboard.register(app)
tables.register(app)
reproduce.register(app)
doctor.register(app)
app.add_typer(cache.app, name="cache")
enrich.register(data.app)
app.add_typer(data.app, name="data")
app.add_typer(results.app, name="results")

INTERRUPTED = 130


class _Notes(logging.Handler):
    """Shows what the harness logs as plain lines on standard error, wherever that points now."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr)  # noqa: T201


@contextmanager
def _notes_shown() -> Iterator[None]:
    """Show notes while a command runs; a caller in the same process keeps its own logging."""
    log, handler = logging.getLogger("clamr_bench"), _Notes()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"clamr-bench {harness.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    A user's mistake is one line on standard error and a status other than 0, never a traceback
    (set ``CLAMR_BENCH_TRACEBACK=1`` to see one, for instance of a plugin of your own).

    Parameters
    ----------
    arguments
        Command line without the program name; None for ``sys.argv``.
    """
    try:
        with _notes_shown():
            check_packages()
            app(args=arguments, prog_name="clamr-bench")
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if status == INTERRUPTED:
            _complain("interrupted; what was complete is kept, and the same command goes on.")
        return status
    except ClamrBenchError as error:
        _complain(str(error))
        return error.exit_status
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        place = error.filename if error.filename is not None else "a file"
        _complain(str(storage_error(error, "file", Path(os.fsdecode(place)))))
        return 1
    return 0


def check_packages() -> None:
    """Make sure that ``retrievers`` and ``tasks`` are clamr-bench's own.

    Their names are plain words: a folder of the same name on the path would shadow them.

    Raises
    ------
    PluginError
        Naming what shadows which.
    """
    home = Path(harness.__file__).parent.parent
    for name in ("retrievers", "tasks"):
        spec = importlib.util.find_spec(name)
        origin = None if spec is None or spec.origin is None else Path(spec.origin)
        if origin is None or origin.parent.parent != home:
            found = origin or (spec and list(spec.submodule_search_locations or [])) or "nothing"
            raise PluginError(
                f"the package {name!r} of clamr-bench (in {home}) is shadowed by {found}: run "
                "from another folder, or rename that one."
            )


def _complain(message: str) -> None:
    if os.environ.get("CLAMR_BENCH_TRACEBACK"):
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
