"""The endpoint router against a server that is slow, wrong, rate-limited, drops and babbles."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import PluginError, UsageError
from harness.types import Modality, Query
from harness.workspace import Workspace
from retrievers.fused.routing import client as client_module
from retrievers.fused.routing import make_router
from retrievers.fused.routing.answers import Answers
from retrievers.fused.routing.client import EndpointError, backoff, chat_url
from retrievers.fused.routing.endpoint import EndpointRouter, read_prompt
from retrievers.fused.routing.key import Key
from retrievers.fused.routing.settings import EndpointSettings

KEY = "sk-test-0123456789/abc&def"
VARIABLE = "ROUTER_TEST_KEY"
PARTS = {
    "v": frozenset({Modality.VIDEO}),
    "s": frozenset({Modality.ASR}),
    "o": frozenset({Modality.OCR}),
    "d": frozenset({Modality.DESCRIPTION}),
}
UNIFORM = dict.fromkeys(PARTS, 0.25)


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's script says; by default with what `says` makes of the query."""

    server: FakeServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        server, self.body = self.server, json.loads(raw or "null")
        with server.lock:
            server.now += 1
            server.most = max(server.most, server.now)
            server.seen.append((self.path, dict(self.headers), self.body))
            act = server.script.popleft() if server.script else server.usual
        try:
            act(self)
        finally:
            with server.lock:
                server.now -= 1

    def do_GET(self) -> None:
        self.do_POST()

    @property
    def query(self) -> str:
        prompt = self.body["messages"][0]["content"]
        return str(re.findall(r"Query: (.*)\nSource:", prompt)[-1])

    def reply(self, status: int, body: str | bytes, **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def chat(self, content: Any) -> None:
        message = {"role": "assistant", "content": content}
        self.reply(200, json.dumps({"choices": [{"index": 0, "message": message}]}))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base's name)
        """Say nothing."""


Act = Callable[[Handler], None]


class FakeServer(ThreadingHTTPServer):
    """Takes down what it is asked."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.now = self.most = 0
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.script: deque[Act] = deque()
        self.usual: Act = lambda handler: handler.chat("speech")
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def prompts(self) -> list[str]:
        return [body["messages"][0]["content"] for _, _, body in self.seen]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that a client gave up."""


@contextmanager
def serving() -> Iterator[FakeServer]:
    made = FakeServer()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.over.set()
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving() as made:
        yield made


@pytest.fixture(autouse=True)
def fast_and_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv(VARIABLE, KEY)
    monkeypatch.setattr(client_module, "BACKOFF", 0.002)


Make = Callable[..., EndpointRouter]


@pytest.fixture
def make(server: FakeServer, tmp_path: Path) -> Make:
    """Make a prepared router; each call is as a new process would."""

    def made(**values: Any) -> EndpointRouter:
        chosen: dict[str, Any] = {"url": server.url, "model": "m", "retries": 2, "timeout": 5.0}
        router = make_router(EndpointSettings(**{**chosen, **values}), list(PARTS), PARTS)
        assert isinstance(router, EndpointRouter)
        router.prepare(Workspace(tmp_path / "workspaces" / "run", {}))
        return router

    return made


def queries(*texts: str) -> list[Query]:
    return [Query(f"q{number}", text) for number, text in enumerate(texts)]


def many(number: int) -> list[Query]:
    return queries(*(f"text {n}" for n in range(number)))


def answers_file(folder: Path) -> Path:
    (found,) = folder.rglob("answers.jsonl")
    return found


# --- asking ---


def test_the_request_is_what_chat_completions_take(server: FakeServer, make: Make) -> None:
    server.usual = lambda handler: handler.chat("ocr")
    router = make(key_variable=VARIABLE, model="gpt-4.1")
    assert not router.oracle
    assert router.route(queries("  words\non the banner ")) == [
        {**dict.fromkeys("vsd", 0.0), "o": 1}
    ]
    ((path, headers, body),) = server.seen
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert headers["Content-Type"] == "application/json"
    assert body == {
        "model": "gpt-4.1",
        "temperature": 0.0,
        "messages": [{"role": "user", "content": server.prompts()[0]}],
    }
    assert body["messages"][0]["content"].endswith("Query: words on the banner\nSource:")


def test_without_a_variable_no_key_and_without_temperature_none(
    server: FakeServer, make: Make
) -> None:
    make(temperature=None).route(queries("a"))
    ((_, headers, body),) = server.seen
    assert "Authorization" not in headers
    assert "temperature" not in body


def test_a_prompt_of_ones_own(server: FakeServer, make: Make, tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text('{"which": "{query}"}')
    make(prompt=path).route(queries("a {query} b"))
    assert server.prompts() == ['{"which": "a {query} b"}']


def test_each_text_is_asked_once_and_several_at_a_time(server: FakeServer, make: Make) -> None:
    says = {f"text {n}": ["video", "speech", "ocr", "description"][n % 4] for n in range(12)}

    def slowly(handler: Handler) -> None:
        time.sleep(0.05)
        handler.chat(says[handler.query])

    server.usual = slowly
    rows = make(concurrency=3).route([*many(12), *many(12)])
    assert [max(row, key=row.__getitem__) for row in rows] == ["v", "s", "o", "d"] * 6
    assert len(server.seen) == 12
    assert 2 <= server.most <= 3


@pytest.mark.parametrize("content", [[{"type": "text", "text": "ocr"}], "OCR", "**ocr**"])
def test_forms_of_content(server: FakeServer, make: Make, content: Any) -> None:
    server.usual = lambda handler: handler.chat(content)
    assert make().route(queries("a"))[0]["o"] == 1


def test_an_answer_that_names_two_shares_the_weight(server: FakeServer, make: Make) -> None:
    server.usual = lambda handler: handler.chat("speech, ocr")
    assert make().route(queries("a"))[0] == {"v": 0, "s": 0.5, "o": 0.5, "d": 0}


# --- answers that do not decide ---


def test_an_answer_without_a_modality_is_asked_for_once_more(
    server: FakeServer, make: Make
) -> None:
    server.script.extend([lambda h: h.chat("I cannot tell."), lambda h: h.chat("ocr")])
    assert make().route(queries("a"))[0]["o"] == 1
    first, second = server.prompts()
    assert second.startswith(first)
    assert "nothing else" in second.removeprefix(first)


@pytest.mark.parametrize("content", ["no idea", "", None, [], 7])
def test_then_the_query_is_for_all_parts(
    server: FakeServer, make: Make, content: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.usual = lambda handler: handler.chat(content)
    router = make()
    assert router.route(queries("a", "b")) == [UNIFORM, UNIFORM]
    assert router.fallbacks == {"answers that name no modality": 2}
    assert caplog.text.count("name no modality") == 1
    assert len(server.seen) == 4
    # That is an answer, too: it is kept and not asked for again.
    assert make().route(queries("a")) == [UNIFORM]
    assert len(server.seen) == 4


def test_a_modality_that_no_part_scores(server: FakeServer, make: Make) -> None:
    server.usual = lambda handler: handler.chat("audio")
    router = make()
    assert router.route(queries("a")) == [UNIFORM]
    assert router.fallbacks == {"no part scores audio": 1}


# --- failures that pass ---


def drop(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


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


def hang(handler: Handler) -> None:
    handler.server.over.wait(5)
    handler.close_connection = True


def drip(handler: Handler) -> None:
    """A byte now and then: no single read is late."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b" ")


def flood(handler: Handler) -> None:
    handler.reply(200, b" " * 3000)


def status(code: int, body: str = "try later", **headers: str) -> Act:
    return lambda handler: handler.reply(code, body, **headers)


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


# --- the key ---


def test_the_key_is_nowhere(
    server: FakeServer,
    make: Make,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not even where the server says it, whole, cut, starred or escaped, or the model does."""
    caplog.set_level("DEBUG")
    half = "x" * 290 + KEY  # across the cut of messages
    texts = [KEY, f"Bearer {KEY} is wrong", f"{KEY[:8]}****{KEY[-4:]}", half,
             json.dumps({"auth": KEY}), KEY.replace("/", "%2F").replace("&", "%26"),
             KEY.replace("&", "&amp;")]  # fmt: skip
    found: list[str] = []
    for text in texts:
        for act in (
            status(401, text),
            status(500, text),
            status(200, text),
            status(302, "", Location=f"http://host/{text}?{text}"),
            lambda handler, text=text: handler.chat(text),
        ):
            server.usual = act
            router = make(key_variable=VARIABLE, retries=1)
            try:
                router.route(queries(f"query {len(found)}"))
            except EndpointError as error:
                found.extend(traceback.format_exception(error))
            found += [repr(router), json.dumps(router.identity())]
            found.append(router._settings.model_dump_json())
    assert any("[key]" in text for text in found)
    for path in tmp_path.rglob("*"):
        found.append(path.name + (path.read_text() if path.is_file() else ""))
    written = "".join([*found, caplog.text, *capfd.readouterr()])
    assert KEY[:5] not in written
    assert KEY[8:] not in written


@pytest.mark.parametrize("value", ["sk-proj-abc", "lower_case", "A B", "", "A" * 65, "X\n"])
def test_a_key_in_place_of_its_variable_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(UsageError, match="NAME of an environment variable") as raised:
        Key(value)
    assert not value or value not in str(raised.value)


@pytest.mark.parametrize("value", ["two words", "with\nline", "schlüssel"])
def test_a_value_that_is_no_key_is_refused_and_not_repeated(
    make: Make, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(UsageError, match=VARIABLE) as raised:
        make(key_variable=VARIABLE)
    assert value not in str(raised.value)


def test_a_missing_key_is_told_before_the_first_query_unless_answers_are_there(
    server: FakeServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(UsageError, match=rf"{VARIABLE} is not set.*export {VARIABLE}"):
        make(key_variable=VARIABLE)
    make().route(queries("a"))  # the same answers: a key does not change them
    router = make(key_variable=VARIABLE)
    assert router.route(queries("a"))[0]["s"] == 1
    with pytest.raises(UsageError, match="is not set"):
        router.route(queries("b"))
    assert len(server.seen) == 1


def test_a_key_over_plain_http_is_told(caplog: pytest.LogCaptureFixture) -> None:
    for url in ("https://far/v1", "http://localhost/v1", "http://[::1]:80/v1"):
        make_router(EndpointSettings(url=url, model="m", key_variable="K"), list(PARTS), PARTS)
    assert not caplog.records
    settings = EndpointSettings(url="http://far:80/v1", model="m", key_variable="K")
    make_router(settings, list(PARTS), PARTS)
    assert "far:80 without encryption" in caplog.text


# --- answers are kept ---


def test_answers_are_shared_between_runs_and_parts(
    server: FakeServer, make: Make, tmp_path: Path
) -> None:
    first = make()
    rows = first.route(many(5))
    assert make(timeout=1.0, concurrency=2).route(many(5)) == rows
    settings = EndpointSettings(url=server.url, model="m")
    other = make_router(settings, ["x"], {"x": frozenset({Modality.ASR})})
    assert other.identity() != first.identity()
    other.prepare(Workspace(tmp_path / "workspaces" / "another run", {}))
    assert other.route(many(5)) == [{"x": 1.0}] * 5
    assert len(server.seen) == 5
    for change in ({"model": "n"}, {"temperature": 0.5}, {"url": server.url + "/x"}):
        assert make(**change).identity() != first.identity()
        make(**change).route(many(1))
    assert len(server.seen) == 8
    kept = "".join(path.read_text() for path in tmp_path.rglob("answers.jsonl"))
    assert "text 1" not in kept
    assert "speech" not in kept


def test_a_failed_run_goes_on_where_it_was(server: FakeServer, make: Make) -> None:
    server.script.extend([lambda h: h.chat("ocr")] * 3 + [status(400)])
    with pytest.raises(EndpointError):
        make(concurrency=1).route(many(6))
    asked = len(server.seen)
    assert 4 <= asked <= 5  # one more may have begun
    rows = make(concurrency=1).route(many(6))
    assert [row["o"] for row in rows[:3]] == [1, 1, 1]
    assert len(server.seen) <= 8
    assert rows[3]["s"] == 1


def test_answers_under_way_when_another_fails_are_kept(server: FakeServer, make: Make) -> None:
    begun = threading.Event()

    def late(handler: Handler) -> None:
        begun.set()
        time.sleep(0.15)
        handler.chat("ocr")

    def refuse(handler: Handler) -> None:
        begun.wait(5)
        handler.reply(400, "no")

    server.script.extend([late, refuse])
    with pytest.raises(EndpointError):
        make(concurrency=2).route(many(2))
    rows = make().route(many(2))
    assert sorted(row["o"] for row in rows) == [0, 1]
    assert len(server.seen) == 3


def test_a_killed_run_asks_nothing_again(server: FakeServer, make: Make, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from harness.types import Modality, Query
from harness.workspace import Workspace
from retrievers.fused.routing import make_router
from retrievers.fused.routing.settings import EndpointSettings
settings = EndpointSettings(url={server.url!r}, model="m", concurrency=1, timeout=30)
router = make_router(settings, ["s"], {{"s": frozenset({{Modality.ASR}})}})
router.prepare(Workspace(Path({str(tmp_path / "workspaces" / "run")!r}), {{}}))
router.route([Query(str(n), f"text {{n}}") for n in range(6)])
"""
    fourth = threading.Event()
    server.script.extend([server.usual] * 3 + [lambda handler: (fourth.set(), hang(handler))[1]])
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent.parent)
    try:
        assert fourth.wait(60)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(make(concurrency=1).route(many(6))) == 6
    assert len(server.seen) == 4 + 3


def test_two_at_once_ask_once(server: FakeServer, make: Make) -> None:
    server.usual = lambda handler: (time.sleep(0.02), handler.chat("ocr"))[1]
    routers = [make() for _ in range(2)]
    threads = [threading.Thread(target=router.route, args=(many(8),)) for router in routers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.seen) == 8


def test_damaged_answers_are_asked_again(
    server: FakeServer, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = make(concurrency=1).route(many(4))
    path = answers_file(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[0] = b"\xff\x00\x13 rubbish\n"
    lines[1] = lines[1].replace(b"asr", b"smell")
    path.write_bytes(b"".join(lines)[:-5])  # the last one is torn
    assert make().route(many(4)) == rows
    assert len(server.seen) == 4 + 3
    assert caplog.text.count("3 damaged lines") == 1
    # What was added after the torn line is whole.
    assert make().route(many(4)) == rows
    assert len(server.seen) == 7


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.integers(0, 200))
def test_any_damage_costs_answers_only(tmp_path: Path, rubbish: bytes, place: int) -> None:
    folder = tmp_path / "answers"
    path = folder / "answers.jsonl"
    path.unlink(missing_ok=True)
    workspace = Workspace(folder, {})
    written = {f"k{n}": (Modality.OCR,) for n in range(4)}
    kept = Answers(workspace)
    for key, modalities in written.items():
        kept.add(key, modalities)
    content = path.read_bytes()
    path.write_bytes(content[:place] + rubbish + content[place + len(rubbish) :])
    after = Answers(workspace)
    after.add("new", (Modality.ASR,))
    again = Answers(workspace)
    assert again["new"] == (Modality.ASR,)
    start, stop = place, place + len(rubbish)
    for number, key in enumerate(written):
        first = content.index(b'{"query": "%b"' % key.encode())
        end = content.index(b"\n", first)
        if end < start - 1 or first > stop + 1:
            assert again[key] == written[key], number


def test_routing_needs_its_workspace(server: FakeServer) -> None:
    settings = EndpointSettings(url=server.url, model="m")
    with pytest.raises(PluginError, match="before prepare"):
        make_router(settings, list(PARTS), PARTS).route(queries("a"))
