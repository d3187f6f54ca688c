"""Loads a model by the library, and holds it to what its files promise."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import sentence_transformers
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from harness.errors import PluginError
from retrievers.device import place_of
from retrievers.source import listed
from retrievers.st.folder import CLASSES, check, remote_code_error, weights_error
from retrievers.st.settings import Kind, LibrarySettings
from retrievers.st.source import ModelSource

log = logging.getLogger("clamr_bench.sentence_transformers")

#: A line of transformers' report on a checkpoint: a tensor that it did not find, or not so.
_AT_RANDOM = re.compile(r"^(\S.*?)\s*\|\s*(?:MISSING|MISMATCH)\b", re.MULTILINE)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: BERT's pooler: no part of a model that pools token embeddings by itself, and often not saved.
_POOLER = re.compile(r"(^|\.)pooler\.")


def load(source: ModelSource, kind: Kind, settings: LibrarySettings) -> Any:
    """Return the library's model, ready to encode.

    Raises
    ------
    UsageError
        If it needs code of its own and is not trusted, or there is no such device.
    PluginError
        If it cannot be loaded, or has tensors that its files lack; they are named.
    """
    trusted = settings.trust_remote_code
    check(source, kind, trusted=trusted)
    if trusted:
        log.warning("%s: Python code that comes with the model may run", source.name)
    place = place_of(settings)
    made = getattr(sentence_transformers, CLASSES[kind])
    try:
        with _listening() as report:
            model = made(
                str(source.folder),
                device=place.device,
                trust_remote_code=trusted,
                # Code may name files of another repository, which are not fetched before.
                local_files_only=not trusted,
                model_kwargs={"dtype": place.dtype, "use_safetensors": True},
            )
    except ImportError as error:
        raise PluginError(f"{source.name} needs a library: {_first_line(error)}") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = _first_line(error)
        if "trust_remote_code" in str(error):
            raise remote_code_error(source.name, reason) from error
        if "safetensors" in str(error):
            raise weights_error(source.name, kind, reason) from error
        raise PluginError(f"{source.name} cannot be loaded as a {CLASSES[kind]}: {reason}") from (
            error
        )
    _check_whole(source, model, report)
    model.eval()
    return model


def _check_whole(source: ModelSource, model: Any, report: list[str]) -> None:
    """Refuse a model with tensors at random."""
    found = {name for text in report for name in _AT_RANDOM.findall(_COLOURS.sub("", text))}
    outputs = {getattr(module, "module_output_name", None) for module in model.modules()}
    if "token_embeddings" in outputs:
        found = {name for name in found if not _POOLER.search(name)}
    if found:
        raise PluginError(
            f"{source.name}: {listed(found)} are not in its files as the model needs them, and "
            "would be drawn at random: fetch the whole model again."
        )


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Silence the libraries while they load, and collect what transformers reports of tensors.

    transformers only warns of a tensor that it draws at random, and a model at random still ranks.
    """
    report: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if "LOAD REPORT" in message:
                report.append(message)
            elif record.levelno >= logging.WARNING:
                log.warning("%s", message.strip())

    listener = Listener()
    loggers = [logging.getLogger(name) for name in ("transformers", "sentence_transformers")]
    before = [(each.handlers, each.level, each.propagate) for each in loggers]
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for each in loggers:
        each.handlers, each.propagate = [listener], False
        each.setLevel(logging.WARNING)
    try:
        yield report
    finally:
        for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
            each.handlers, each.propagate = handlers, propagate
            each.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def image_backend() -> str:
    """Return what prepares images: where torchvision is installed, pixels come out otherwise."""
    return "pil" if find_spec("torchvision") is None else "torchvision"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
