"""Templates -> one HTML file that holds all it needs, and may load nothing else.

Everything is escaped by jinja2; what the script reads is JSON in a data block, with ``<``, ``>``
and ``&`` escaped. A content security policy in the page lets only its own script run, by its
digest, and forbids every request.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import __version__
from harness.errors import UsageError
from harness.types import Modality

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """Return the page that a template makes of `values`.

    Raises
    ------
    UsageError
        If jinja2 is not installed.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise UsageError(
            "HTML pages are made with jinja2, which is not installed: "
            "pip install 'clamr-bench[report]'."
        ) from error
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.globals |= {
        # Files of our own: the only texts that are not escaped.
        "style": Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),  # noqa: S704
        "script": Markup(script),  # noqa: S704
        "policy": (
            f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
            f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        ),
        "version": __version__,
        "modalities": [*(modality.label for modality in Modality), "none"],
    }
    return environment
