"""The endpoint router: what it asks, what it makes of answers, where it keeps them; its key."""

# ruff: noqa: F811 (fixtures are imported and named as arguments)

from __future__ import annotations

import html
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import PluginError, UsageError
from harness.types import Modality
from harness.workspace import Workspace
from retrievers.fused.routing import make_router
from retrievers.fused.routing.answers import Answers
from retrievers.fused.routing.client import EndpointError
from retrievers.fused.routing.key import Key
from retrievers.fused.routing.settings import EndpointSettings
from tests.routing_server import (  # noqa: F401
    KEY,
    PARTS,
    UNIFORM,
    VARIABLE,
    FakeServer,
    Handler,
    Make,
    answers_file,
    fast_and_direct,
    hang,
    make,
    many,
    queries,
    server,
    status,
)

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

    now: list[str] = []
    most: list[int] = []

    def slowly(handler: Handler) -> None:
        now.append(handler.query)
        most.append(len(now))
        time.sleep(0.05)
        now.remove(handler.query)
        handler.chat(says[handler.query])

    server.usual = slowly
    rows = make(concurrency=3).route([*many(12), *many(12)])
    assert [max(row, key=row.__getitem__) for row in rows] == ["v", "s", "o", "d"] * 6
    assert len(server.seen) == 12
    assert 2 <= max(most) <= 3


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


@pytest.mark.parametrize("key", ["/x&y", 'q"z\\', '/long&key"0123456789'])
def test_escaped_keys_are_found_in_what_a_server_says(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(VARIABLE, key)
    for escaped in (key, quote(key, safe=""), json.dumps(key)[1:-1], html.escape(key)):
        assert Key(VARIABLE).redact(f"key={escaped}, bad") == "key=[key], bad"
    assert Key(None).redact(key) == key


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


def test_reading_answers_counts_as_use_of_their_workspace(
    server: FakeServer, make: Make, tmp_path: Path
) -> None:
    """So that `cache prune --older-than` keeps what is read only."""
    make().route(many(1))
    lock = answers_file(tmp_path).with_name(".lock")
    os.utime(lock, (1.0, 1.0))
    make()
    assert lock.stat().st_mtime > 1.0


def test_a_failed_run_goes_on_where_it_was(server: FakeServer, make: Make) -> None:
    server.script.extend([lambda h: h.chat("ocr")] * 3 + [status(400)])
    with pytest.raises(EndpointError):
        make(concurrency=1).route(many(6))
    assert len(server.seen) == 4
    rows = make(concurrency=1).route(many(6))
    assert [row["o"] for row in rows[:3]] == [1, 1, 1]
    assert len(server.seen) == 4 + 3
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
        while answers_file(tmp_path).read_bytes().count(b"\n") < 3:
            time.sleep(0.01)
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
