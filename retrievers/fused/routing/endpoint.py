"""The endpoint router: a language model says which modality a query is meant for.

So the paper routes its baselines, by GPT-4.1 and a few-shot prompt (CLaMR, section 5 and figure
6). Its prompt is the authors'; ours says the same in our own words.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.resources import files
from pathlib import Path
from threading import Event
from typing import Any

from harness.errors import PluginError, UsageError
from harness.types import Modality, Query
from harness.workspace import Workspace, digest
from retrievers.fused.routing.answers import Answers
from retrievers.fused.routing.client import ChatClient, Stopped
from retrievers.fused.routing.names import read_answer
from retrievers.fused.routing.settings import EndpointSettings
from retrievers.fused.routing.shares import Shares

log = logging.getLogger("clamr_bench.routing")

_DEFAULT = "prompt.txt"
_QUERY = "{query}"
#: Raised with every change of how answers are asked for or read: the cache is keyed by it.
_VERSION = "1"
_REMINDER = "Reply with one of these words and nothing else: video, audio, speech, ocr, description"


class EndpointRouter:
    """Routes by the answers of a chat completions endpoint.

    Each distinct query text is asked once, and the answer kept in a workspace of its own, which
    all runs with the same endpoint, model, prompt and temperature share. An answer that names no
    modality is asked for once more; then the query is for all parts alike. An endpoint that fails
    stops the run: scores never depend on its bad days. The same command then goes on.

    Raises
    ------
    UsageError
        If the address, the prompt or the name of the key's variable cannot be used.
    """

    oracle = False
    untrained = False

    def __init__(self, settings: EndpointSettings, shares: Shares) -> None:
        self._settings, self._shares = settings, shares
        self.fallbacks = shares.fallbacks
        self._prompt = read_prompt(settings.prompt)
        self._client = ChatClient(settings)
        self._answers: Answers | None = None

    def identity(self) -> dict[str, Any]:
        """Return what determines the weights; neither the key nor its name is part of it."""
        return {"kind": "endpoint", **self._asked, "parts": self._shares.identity()}

    @property
    def _asked(self) -> dict[str, Any]:
        """What answers depend on beside the query; the parts are no part of it."""
        return {
            "version": _VERSION,
            "url": self._client.url,
            "model": self._settings.model,
            "prompt": hashlib.sha256(self._prompt.encode()).hexdigest(),
            "temperature": self._settings.temperature,
        }

    def prepare(self, workspace: Workspace) -> None:
        """Open the answers of earlier runs, beside the given workspace.

        Raises
        ------
        UsageError
            If there are none and the key is missing: the run could not go far.
        """
        # `clamr-bench cache list` shows name and weights.
        owner = {"name": "router", "weights": self._settings.model}
        identity = {"retriever": owner, "answers": self._asked}
        own = Workspace.of(identity, workspace.path.parent)
        with own.locked(_busy):  # which notes that it was used, if only to read
            self._answers = Answers(own)
        if not len(self._answers):
            self._client.key.header()

    def close(self) -> None:
        """Nothing to give back: connections end with their requests."""

    def route(self, queries: Sequence[Query]) -> list[Mapping[str, float]]:
        """Return the weights of the parts for each query.

        Raises
        ------
        EndpointError
            If the endpoint refuses or keeps failing; what it answered is kept.
        UsageError
            If the key is missing.
        StorageError
            If an answer cannot be written.
        """
        answers = self._answers
        if answers is None:
            raise PluginError("router: route was called before prepare.")
        keys = [_key(query) for query in queries]
        if any(key not in answers for key in keys):
            with answers.workspace.locked(_busy):
                answers.load()  # whoever held the lock may have asked the same
                texts = {key: _line(query) for key, query in zip(keys, queries)}
                self._ask({k: text for k, text in texts.items() if k not in answers}, answers)
        return [self._weights(query, answers[key]) for query, key in zip(queries, keys)]

    def _weights(self, query: Query, named: Sequence[Modality]) -> Mapping[str, float]:
        if not named:
            return self._shares.uniform("answers that name no modality", query.id)
        return self._shares.of(dict.fromkeys(named, 1.0), query.id)

    def _ask(self, texts: Mapping[str, str], answers: Answers) -> None:
        """Ask for all `texts`, several at a time; every answer is kept as it arrives."""
        stopped = Event()
        failure: BaseException | None = None
        pool = ThreadPoolExecutor(self._settings.concurrency, "router")
        try:
            asked = {pool.submit(self._answer, text, stopped): key for key, text in texts.items()}
            # After a failure, requests under way still end and are kept: they are paid for.
            for future in as_completed(asked):
                error = future.exception()
                if error is None:
                    answers.add(asked[future], future.result())
                elif not isinstance(error, Stopped):
                    failure = failure or error
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
        if failure is not None:
            raise failure

    def _answer(self, text: str, stopped: Event) -> tuple[Modality, ...]:
        try:
            prompt = self._prompt.replace(_QUERY, text)
            named = read_answer(self._client.ask(prompt, stopped))
            if not named:
                named = read_answer(self._client.ask(f"{prompt}\n\n{_REMINDER}", stopped))
            return tuple(sorted(named))
        except BaseException:
            stopped.set()  # here, so that no further request begins meanwhile
            raise


def read_prompt(path: Path | None) -> str:
    """Read a prompt; the package's own for None.

    Raises
    ------
    UsageError
        If the file is missing, is not text, or has no ``{query}``.
    """
    try:
        if path is None:
            text = files(__package__).joinpath(_DEFAULT).read_text(encoding="utf-8")
        else:
            text = path.expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"router: prompt {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"router: prompt {path} is not text in UTF-8.") from None
    if _QUERY not in text:
        raise UsageError(
            f"router: prompt {path} does not say where the query goes: write {_QUERY} there."
        )
    return text.strip()


def _line(query: Query) -> str:
    """Return the query's text on one line, so that it cannot continue the list of examples."""
    return " ".join(query.text.split())


def _key(query: Query) -> str:
    return digest(_line(query))


def _busy(holder: str) -> None:
    log.info("router: waiting for process %s, which asks the same endpoint", holder)
