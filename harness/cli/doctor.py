"""``clamr-bench doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli import show
from harness.cli.options import JsonOption


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("doctor")(doctor_command)


def doctor_command(
    offline: Annotated[bool, typer.Option("--offline", help="Do not try the model hub.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine has: Python, packages, GPU, 4 bits, folders, data, the model hub.

    It ends with status 1 if something is broken; what is lacking takes away a feature only.

    `clamr-bench doctor`
    """
    from dataclasses import asdict

    from harness.diagnosis import diagnose
    from harness.errors import ClamrBenchError

    found = list(diagnose(online=not offline))
    if as_json:
        show.json([asdict(one) for one in found])
    else:
        show.table(["", "", ""], [[one.what, one.state, one.detail] for one in found])
    broken = [one.what for one in found if one.state == "broken"]
    if broken:
        raise ClamrBenchError(f"broken: {', '.join(broken)}; see above.")
