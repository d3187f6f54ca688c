"""A small client of OpenAI-compatible chat completions endpoints, by the standard library."""

from __future__ import annotations

import http.client
import json
import logging
import math
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from random import Random
from threading import Event
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, parse_qsl, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from harness import __version__
from harness.errors import ClamrBenchError, UsageError
from retrievers.fused.routing.key import Key
from retrievers.fused.routing.settings import EndpointSettings

log = logging.getLogger("clamr_bench.routing")

#: Seconds before the first further attempt; doubled for each one more, up to the longest wait.
BACKOFF = 1.0
LONGEST_WAIT = 60.0
#: Most bytes of an answer: a chat completion of one word has about 1,000.
MOST_BYTES = 2**20
#: Characters of a server's own words that messages repeat.
_SHOWN = 300
_CHUNK = 2**16

_PATH = "/chat/completions"
#: A request that is refused for the moment; so does every status from 500.
_FOR_NOW = frozenset({408, 409, 425, 429})
_SECRET_WORDS = ("key", "token", "secret", "password", "signature", "sig", "auth")


class EndpointError(ClamrBenchError):
    """An endpoint that refuses requests or gives no usable answer."""


class Stopped(Exception):  # noqa: N818 (no error: another request failed, this one need not go on)
    """A request was given up because another one failed."""


class _ForNowError(Exception):
    """A failure that another attempt may not meet; `after`: seconds the server asks to wait."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class _NoRedirects(HTTPRedirectHandler):
    """Follows no redirect: the standard handler would send the key to any host."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Follow none; the status becomes an `HTTPError`."""


class ChatClient:
    """Asks a chat completions endpoint, with bounded retries.

    May be used by several threads. Environment variables such as ``HTTPS_PROXY`` are honoured.

    Raises
    ------
    UsageError
        If the address is not http(s), or holds a password or a key, or the model is missing.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        if not settings.model:
            raise UsageError(
                "router: model is missing: name one that the endpoint has, as gpt-4.1."
            )
        self._settings = settings
        self.key = Key(settings.key_variable)
        self.url = chat_url(settings.url)
        self._opener = build_opener(_NoRedirects)
        parts = urlsplit(self.url)
        if settings.key_variable and parts.scheme == "http" and not _is_local(parts.hostname):
            log.warning(
                "router: the key is sent to %s without encryption; use https if the server has it",
                parts.netloc,
            )

    def ask(self, prompt: str, stopped: Event) -> str:
        """Return the answer to one user message; empty if the model said nothing.

        Parameters
        ----------
        prompt
            The message.
        stopped
            When set, no further attempt is made.

        Raises
        ------
        EndpointError
            If the endpoint refuses the request, or all attempts fail.
        UsageError
            If the key cannot be read.
        Stopped
            If `stopped` was set.
        """
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": [{"role": "user", "content": prompt}],
        }
        if self._settings.temperature is not None:
            body["temperature"] = self._settings.temperature
        data = json.dumps(body).encode()
        jitter = Random(prompt)  # noqa: S311 (spreads attempts; the same in every run)
        for attempt in range(self._settings.retries + 1):
            if stopped.is_set():
                raise Stopped
            try:
                return _content(self._send(data))
            except _ForNowError as error:
                reason, after = self._shown(str(error)), error.after
            if attempt == self._settings.retries:
                break
            if after is not None and after > LONGEST_WAIT:
                raise EndpointError(
                    f"router: {self.url} asks to wait {after:,.0f} s ({reason}), longer than the "
                    f"{LONGEST_WAIT:.0f} s that are waited for. Give the same command again then: "
                    "the answers so far are kept."
                )
            seconds = backoff(attempt, jitter) if after is None else after
            if attempt == 0:
                log.info("router: %s: %s; trying again in %.1f s", self.url, reason, seconds)
            stopped.wait(seconds)
        attempts = self._settings.retries + 1
        raise EndpointError(
            f"router: {self.url} gave no answer in {attempts} attempts, at last: {reason}. Check "
            "that it runs, or raise timeout and retries, then give the same command again: the "
            "answers so far are kept."
        )

    def _send(self, data: bytes) -> str:
        """Post a request; return the body of the answer."""
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": f"clamr-bench/{__version__}",
        }
        request = Request(self.url, data, headers, method="POST")  # noqa: S310 (http(s) by chat_url)
        authorization = self.key.header()
        if authorization is not None:
            request.add_unredirected_header("Authorization", authorization)
        deadline = time.monotonic() + self._settings.timeout
        # `from None`: what lies behind an error may hold the request, and with it the key.
        try:
            with self._opener.open(request, timeout=self._settings.timeout) as response:
                text = _read(response, deadline)
        except HTTPError as error:
            raise self._refusal(error, deadline) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._failure(error) from None
        return text.decode("utf-8", "replace")

    def _refusal(self, error: HTTPError, deadline: float) -> Exception:
        """Return what an HTTP status means."""
        with error:
            try:
                said = _read(error, deadline).decode("utf-8", "replace")
            except (OSError, http.client.HTTPException, _ForNowError):
                said = ""
        said = self._shown(said) or "no reason given"
        if 300 <= error.code < 400:
            place = urlsplit(error.headers.get("Location", ""))
            to = self._shown(f"{place.scheme}://{place.netloc}{place.path}")
            return EndpointError(
                f"router: {self.url} redirects (status {error.code}) to {to}, where the key is not "
                "sent. If that is the endpoint, set url to it."
            )
        if error.code in _FOR_NOW or error.code >= 500:
            after = _retry_after(error.headers) if error.code in (429, 503) else None
            return _ForNowError(f"status {error.code}: {said}", after)
        return EndpointError(
            f"router: {self.url} refused the request with status {error.code}: {said}. "
            f"{self._remedy(error.code)}"
        )

    def _remedy(self, status: int) -> str:
        variable = self.key.variable
        if status in (401, 403) and variable is None:
            return "Set key_variable to the name of the environment variable that holds the key."
        if status in (401, 403):
            return f"Check the key in the environment variable {variable}, and what it may use."
        if status == 404:
            return f"Check url and the model {self._settings.model!r}."
        return (
            f"Check the model {self._settings.model!r} and the prompt; where a model takes no "
            "temperature, set temperature to null."
        )

    def _failure(self, error: Exception) -> Exception:
        """Return what a broken connection means."""
        cause = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            return EndpointError(
                f"router: the certificate of {self.url} is not trusted: {cause.verify_message}. "
                "Check url; a certificate of your own is named by SSL_CERT_FILE."
            )
        if isinstance(cause, TimeoutError):
            return _ForNowError(f"no answer within {self._settings.timeout:g} s")
        return _ForNowError(f"{type(cause).__name__}: {cause}")

    def _shown(self, text: str) -> str:
        """Return a server's words on one line, without the key, shortened, nothing invisible."""
        # The key goes before the text is cut: half of it would not be recognised.
        words = " ".join(self.key.redact(text).split())
        plain = "".join(letter for letter in words if letter.isprintable())
        return plain if len(plain) <= _SHOWN else plain[: _SHOWN - 3] + "..."


def chat_url(url: str) -> str:
    """Return the address of chat completions, of an API or as it is given.

    Raises
    ------
    UsageError
        If it is no http(s) address, or holds a secret: it would be written into results.
    """
    url = url.strip()
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError:
        parts, host = SplitResult("", "", "", "", ""), None
    visible = url.isprintable() and " " not in url
    if "@" in parts.netloc or any(
        word in name.lower() for name, _ in parse_qsl(parts.query) for word in _SECRET_WORDS
    ):
        raise UsageError(
            "router: url holds a password or a key, which would be written into results: give the "
            "address without it, and the key in the environment variable that key_variable names."
        )
    if parts.scheme not in ("http", "https") or not host or not visible:
        shown = "" if "@" in url else f" = {url!r}"  # before an @ may stand a password
        raise UsageError(
            f"router: url{shown} is no http or https address, as https://api.openai.com/v1."
        )
    path = parts.path.rstrip("/")
    path = path if path.endswith(_PATH) else path + _PATH
    return parts._replace(path=path, fragment="").geturl()


def backoff(attempt: int, jitter: Random) -> float:
    """Return the seconds to wait after attempt 0, 1, ...: doubled, half of it at random."""
    longest: float = min(BACKOFF * 2**attempt, LONGEST_WAIT)
    return longest * jitter.uniform(0.5, 1.0)


def _read(response: Any, deadline: float) -> bytes:
    """Read an answer within time and size; a socket's own timeout is for each read alone."""
    parts, size = [], 0
    while chunk := response.read1(_CHUNK):
        parts.append(chunk)
        size += len(chunk)
        if size > MOST_BYTES:
            raise _ForNowError(f"the answer is longer than {MOST_BYTES:,} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(parts)


def _content(text: str) -> str:
    """Return what the first choice says; empty if it says nothing, as after a refusal."""
    try:
        content = json.loads(text)["choices"][0]["message"].get("content")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise _ForNowError(f"the answer is no chat completion: {text}") from None
    if isinstance(content, list):  # content in parts, as multimodal servers give it
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        content = " ".join(part for part in texts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _retry_after(headers: Message) -> float | None:
    """Return the seconds that ``Retry-After`` asks for: a number, or a date (RFC 9110, 10.2.3)."""
    value = headers.get("Retry-After", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (date - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _is_local(host: str | None) -> bool:
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"
