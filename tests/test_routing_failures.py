"""The endpoint router when the endpoint is slow, wrong, rate-limited, drops and babbles."""

# ruff: noqa: F811 (fixtures are imported and named as arguments)

from __future__ import annotations

import socket
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from random import Random

import pytest

from harness.errors import UsageError
from retrievers.fused.routing import client as client_module
from retrievers.fused.routing.client import EndpointError, backoff, chat_url
from retrievers.fused.routing.endpoint import read_prompt
from tests.routing_server import (  # noqa: F401
    VARIABLE,
    Act,
    FakeServer,
    Handler,
    Make,
    drop,
    fast_and_direct,
    hang,
    make,
    queries,
    server,
    serving,
    status,
)

# --- failures that pass ---


def break_off(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "500")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    drop(handler)


def broken_chunks(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b'5\r\n{"cho\r\nzz\r\n')
    drop(handler)


def drip(handler: Handler) -> None:
    """A byte now and then: no single read is late."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b" ")


def flood(handler: Handler) -> None:
    """The answer comes, after more blanks than are read."""
    handler.reply(200, " " * 3000 + '{"choices": [{"message": {"content": "ocr"}}]}')


PASSING: dict[str, Act] = {
    "dropped": drop,
    "broken off": break_off,
    "broken chunks": broken_chunks,
    "silent": hang,
    "dripping": drip,
    "too long": flood,
    "not http": lambda handler: (handler.wfile.write(b"SSH-2.0-x\r\n"), drop(handler))[1],
    "not json": status(200, "<html>busy</html>"),
    "not utf-8": lambda handler: handler.reply(200, b"\xff\xfe\x00{"),
    "empty": status(200, ""),
    "deep": status(200, "[" * 2000),
    "a list": status(200, "[]"),
    "a number": status(200, "3"),
    "no choices": status(200, '{"choices": []}'),
    "no message": status(200, '{"choices": [{"text": "ocr"}]}'),
    "an error with status 200": status(200, '{"error": {"message": "upstream"}}'),
    "no content": status(204, ""),
    "408": status(408),
    "429": status(429),
    "429, now": status(429, Retry_After="0"),
    "429, nonsense": status(429, Retry_After="soon"),
    "500": status(500),
    "502": status(502, "<html>bad gateway</html>"),
    "503": status(503),
    "529": status(529),
}


@pytest.mark.parametrize("failure", PASSING.values(), ids=PASSING)
def test_what_may_pass_is_tried_again(
    server: FakeServer, make: Make, monkeypatch: pytest.MonkeyPatch, failure: Act
) -> None:
    monkeypatch.setattr(client_module, "MOST_BYTES", 2500)
    server.script.extend([failure, failure])
    router = make(timeout=0.25, key_variable=VARIABLE)
    assert router.route(queries("a"))[0]["s"] == 1
    assert len(server.seen) == 3
    assert not router.fallbacks


@pytest.mark.parametrize("name", ["dropped", "silent", "not json", "429", "503"])
def test_what_does_not_pass_stops_the_run(
    server: FakeServer, make: Make, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    server.usual = PASSING[name]
    router = make(timeout=0.1, retries=3)
    with pytest.raises(EndpointError, match=r"no answer in 4 attempts.*are kept") as raised:
        router.route(queries("a"))
    assert len(server.seen) == 4
    assert caplog.text.count("trying again") == 1
    expected = {"silent": "within 0.1 s", "not json": "<html>", "429": "429: try later"}
    assert expected.get(name, "") in str(raised.value)
    server.usual = lambda handler: handler.chat("ocr")
    assert router.route(queries("a"))[0]["o"] == 1


def test_nobody_listens(make: Make) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(EndpointError, match=r"3 attempts.*ConnectionRefused.*Check that it"):
            make(url=url).route(queries("a"))


def test_no_retries_is_one_attempt(server: FakeServer, make: Make) -> None:
    server.usual = status(500)
    with pytest.raises(EndpointError, match="1 attempts"):
        make(retries=0).route(queries("a"))
    assert len(server.seen) == 1


def test_waits_double_with_jitter_and_are_the_same_in_every_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "BACKOFF", 1.0)
    waits = [backoff(attempt, Random("a")) for attempt in range(12)]
    assert waits == [backoff(attempt, Random("a")) for attempt in range(12)]
    assert all(min(2.0**n, 60) / 2 <= wait <= min(2.0**n, 60) for n, wait in enumerate(waits))
    assert backoff(0, Random("a")) != backoff(0, Random("b"))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that are waited for between attempts; nobody waits."""
    seen: list[float] = []

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            seen.append(timeout or 0.0)
            return self.is_set()

    monkeypatch.setattr("retrievers.fused.routing.endpoint.Event", Event)
    return seen


@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_is_honoured(
    server: FakeServer, make: Make, waits: list[float], code: int
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    server.script.extend(status(code, Retry_After=value) for value in ("7", date, past, "-3"))
    make(retries=4).route(queries("a"))
    assert waits[0] == 7
    assert 25 < waits[1] <= 30
    assert waits[2:] == [0, 0]


def test_a_long_retry_after_is_not_waited_for(
    server: FakeServer, make: Make, waits: list[float]
) -> None:
    server.usual = status(429, "daily limit", Retry_After="3600")
    with pytest.raises(EndpointError, match=r"wait 3,600 s.*daily limit.*Give the same command"):
        make().route(queries("a"))
    assert waits == []
    assert len(server.seen) == 1


# --- failures that stay ---


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (400, "model 'm' and the prompt"),
        (401, VARIABLE),
        (403, VARIABLE),
        (404, "url and the model 'm'"),
        (422, "model 'm'"),
    ],
)
def test_a_refusal_is_not_tried_again(
    server: FakeServer, make: Make, code: int, remedy: str
) -> None:
    server.usual = status(code, '{"error": "no\n\tsuch\x1b[31m ' + "thing " * 200 + '"}')
    with pytest.raises(EndpointError) as raised:
        make(key_variable=VARIABLE).route(queries("a"))
    message = str(raised.value)
    assert len(server.seen) == 1
    assert f"status {code}" in message
    assert "no such[31m thing" in message
    assert remedy in message
    assert len(message) < 700
    assert message.isprintable()


def test_without_a_key_it_is_said_how_to_give_one(server: FakeServer, make: Make) -> None:
    server.usual = status(401, "who are you")
    with pytest.raises(EndpointError, match="Set key_variable"):
        make().route(queries("a"))


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(server: FakeServer, make: Make, code: int) -> None:
    with serving() as other:
        server.usual = status(code, "", Location=f"{other.url}/chat/completions?x=1")
        with pytest.raises(EndpointError, match=r"redirects.*set url to it"):
            make(key_variable=VARIABLE).route(queries("a"))
        assert not other.seen


@pytest.mark.parametrize(
    "url",
    ["", "file:///etc/passwd", "ftp://host/v1", "api.openai.com/v1", "http://", "https:///v1",
     "http://[::1", "http://a b/v1", "http://host:99999/v1", "http://a..b/v1"],
)  # fmt: skip
def test_only_web_addresses(url: str) -> None:
    with pytest.raises(UsageError, match="no http or https address"):
        chat_url(url)


@pytest.mark.parametrize(
    "url",
    ["https://me:hunter2@host/v1", "https://host/v1?api-key=hunter2", "me:hunter2@host/v1",
     "http://me:hunter2@[bad/v1", "https://host/v1?x=1&access_token=hunter2"],
)  # fmt: skip
def test_secrets_in_addresses_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        chat_url(url)
    assert "hunter2" not in str(raised.value)


def test_addresses_of_an_api_and_of_its_chat_completions_are_the_same() -> None:
    whole = "https://host:8000/v1/chat/completions"
    for url in ("https://host:8000/v1", "https://host:8000/v1/ ", whole, whole + "/#x"):
        assert chat_url(url) == whole
    assert chat_url("https://h/a?api-version=2") == "https://h/a/chat/completions?api-version=2"


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"which?", "{query}"), (b"\xff{query}", "UTF-8"), (None, "cannot be read")],
)
def test_a_prompt_that_cannot_be_used(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "prompt.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        read_prompt(path)


def test_a_model_must_be_named(make: Make) -> None:
    with pytest.raises(UsageError, match="model is missing"):
        make(model="")
