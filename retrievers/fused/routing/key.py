"""The key of an endpoint: read from the environment when it is used, shown nowhere."""

from __future__ import annotations

import html
import json
import os
import re
from urllib.parse import quote

from harness.errors import UsageError

#: Names in capitals: a key that was given in place of a name is then not taken for one.
_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
#: A longer key is recognised by its first letters, too: servers quote keys shortened or starred.
_LONG = 8
_FIRST = 4


class Key:
    """The key that an environment variable holds.

    Parameters
    ----------
    variable
        Name of the variable; None for an endpoint without a key.

    Raises
    ------
    UsageError
        If `variable` is not the name of one; it is not repeated, for it may be a key.
    """

    def __init__(self, variable: str | None) -> None:
        if variable is not None and not _NAME.fullmatch(variable):
            raise UsageError(
                "router: key_variable must be the NAME of an environment variable, in capitals "
                "such as OPENAI_API_KEY; what was given is not (and is not shown, as it may be a "
                "key)."
            )
        self.variable = variable

    def header(self) -> str | None:
        """Return the value of the ``Authorization`` header, or None without a key.

        Raises
        ------
        UsageError
            If the variable is not set, or holds what cannot be a key.
        """
        if self.variable is None:
            return None
        key = self._value()
        if not key:
            raise UsageError(
                f"router: the environment variable {self.variable} is not set; it must hold the "
                f"key of the endpoint: export {self.variable}=..."
            )
        # Spaces and line ends would break the header; http.client would quote it in its error.
        if not re.fullmatch(r"[\x21-\x7e]+", key):
            raise UsageError(
                f"router: what the environment variable {self.variable} holds is no key: it has "
                "spaces, line ends or letters outside ASCII."
            )
        return f"Bearer {key}"

    def redact(self, text: str) -> str:
        """Return `text` with the key, whole or shortened, replaced by ``[key]``."""
        key = self._value()
        if not key:
            return text
        forms = {key, quote(key, safe=""), json.dumps(key)[1:-1], html.escape(key)}
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, "[key]")
        if len(key) >= _LONG:
            text = re.sub(re.escape(key[:_FIRST]) + r"\S*", "[key]", text)
        return text

    def _value(self) -> str:
        return os.environ.get(self.variable, "").strip() if self.variable else ""
