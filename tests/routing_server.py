"""A fake chat completions server, and routers that ask it, for tests of the endpoint router."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.types import Modality, Query
from harness.workspace import Workspace
from retrievers.fused.routing import client as client_module
from retrievers.fused.routing import make_router
from retrievers.fused.routing.endpoint import EndpointRouter
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
            server.seen.append((self.path, dict(self.headers), self.body))
            act = server.script.popleft() if server.script else server.usual
        act(self)

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


def drop(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def hang(handler: Handler) -> None:
    handler.server.over.wait(5)
    handler.close_connection = True


def status(code: int, body: str = "try later", **headers: str) -> Act:
    return lambda handler: handler.reply(code, body, **headers)


def queries(*texts: str) -> list[Query]:
    return [Query(f"q{number}", text) for number, text in enumerate(texts)]


def many(number: int) -> list[Query]:
    return queries(*(f"text {n}" for n in range(number)))


def answers_file(folder: Path) -> Path:
    (found,) = folder.rglob("answers.jsonl")
    return found
