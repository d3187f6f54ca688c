"""Names and addresses -> plugins.

Plugins are found by entry point (groups ``clamr_bench.tasks`` and ``clamr_bench.retrievers``; the
built-ins register the same way) or by path: ``path/to/file.py:Class``. An address is looked up
whole (``multivent/v1``), then split at its first ``/`` (``clamr/tiny``: plugin ``clamr``, rest
``tiny``).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import EntryPoint, EntryPoints
from importlib.util import module_from_spec
from pathlib import Path
from types import CodeType
from typing import Any, Generic, TypeVar

from harness import API_VERSION
from harness.errors import PluginError, UsageError, did_you_mean
from harness.plugin import About, Plugin
from harness.retriever import Retriever
from harness.settings import Settings, parse_model
from harness.task import Task

P = TypeVar("P", bound=Plugin)

_FILE_ADDRESS = re.compile(r"^(?P<path>.+\.py):(?P<cls>\w+)(?:/(?P<rest>.*))?$")


@cache
def entry_points(group: str) -> EntryPoints:
    """Return the entry points of a group; every installed package is read once, for 30 ms or so."""
    return importlib.metadata.entry_points(group=group)


@dataclass(frozen=True, slots=True)
class Found(Generic[P]):
    """A plugin class with the name that it goes by and the rest of its address."""

    name: str
    plugin: type[P]
    rest: str
    file: str | None = None
    source_sha256: str | None = None


class Registry(Generic[P]):
    """Plugins of one kind.

    Parameters
    ----------
    group
        Entry point group.
    kind
        ``task`` or ``retriever``, for messages.
    base
        The class that every plugin subclasses.
    """

    def __init__(self, group: str, kind: str, base: type[P]) -> None:
        self.group, self.kind, self.base = group, kind, base

    def names(self) -> list[str]:
        """Return the registered names, sorted, without loading anything."""
        return sorted({entry.name for entry in entry_points(group=self.group)})

    def find(self, address: str) -> Found[P]:
        """Return the plugin that `address` names.

        Raises
        ------
        UsageError
            If no plugin has that name; the message has the nearest one.
        PluginError
            If the plugin cannot be loaded or is not a `base`; the message names it.
        """
        by_file = _FILE_ADDRESS.match(address)
        if by_file:
            return self._from_file(Path(by_file["path"]), by_file["cls"], by_file["rest"] or "")
        registered = self.names()
        name, rest = address, ""
        if name not in registered:
            name, _, rest = address.partition("/")
        entries = [entry for entry in entry_points(group=self.group) if entry.name == name]
        # An editable install beside a wheel lists the same target twice: that is no collision.
        targets = sorted({entry.value for entry in entries})
        if not entries:
            raise UsageError(
                f"unknown {self.kind} {address!r}.{did_you_mean(address, registered)} "
                f"`clamr-bench {self.kind}s` lists those that are installed; one of your own is "
                f"addressed as path/to/file.py:Class."
            )
        if len(targets) > 1:
            raise PluginError(
                f"{self.kind} {name!r} is registered more than once: {', '.join(targets)}; "
                "uninstall one of the packages."
            )
        return Found(name, self._load(entries[0]), rest)

    def everything(self) -> Iterator[tuple[str, type[P] | PluginError]]:
        """Yield every registered name with its class, or with the error that loading it gives."""
        for name in self.names():
            try:
                yield name, self.find(name).plugin
            except PluginError as error:
                yield name, error

    def _load(self, entry: EntryPoint) -> type[P]:
        try:
            loaded = entry.load()
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{self.kind} {entry.name!r} ({entry.value}) failed to load: "
                f"{type(error).__name__}: {error}"
            ) from error
        return self._checked(loaded, f"{self.kind} {entry.name!r} ({entry.value})")

    def _from_file(self, path: Path, class_name: str, rest: str) -> Found[P]:
        where = f"{self.kind} {path}:{class_name}"
        if not path.is_file():
            raise UsageError(f"{where}: there is no file {path}.")
        source = path.read_bytes()
        digest = hashlib.sha256(source).hexdigest()
        # A module name of its own for each content: two files called mine.py do not collide.
        name = f"clamr_bench_file_{digest[:16]}"
        loader = _FileLoader(name, str(path))
        module = sys.modules.get(name)
        if module is None:
            module = module_from_spec(ModuleSpec(name, loader, origin=str(path)))
            module.__file__ = str(path)
            sys.modules[name] = module
            try:
                loader.exec_module(module)
            except (Exception, SystemExit) as error:
                del sys.modules[name]
                raise PluginError(
                    f"{where} failed to load: {type(error).__name__}: {error}"
                ) from error
        loaded = getattr(module, class_name, None)
        if loaded is None:
            classes = [name for name, value in vars(module).items() if isinstance(value, type)]
            raise UsageError(f"{where}: no such class.{did_you_mean(class_name, classes)}")
        file = f"{path}:{class_name}"
        return Found(class_name, self._checked(loaded, where), rest, file, digest)

    def _checked(self, loaded: Any, where: str) -> type[P]:
        if not (isinstance(loaded, type) and issubclass(loaded, self.base)):
            raise PluginError(f"{where} is not a subclass of {self.base.__name__}.")
        _check_declared(loaded, where)
        return loaded


class _Retrievers(Registry[Retriever]):
    """Retrievers; an encoder counts as one and is wrapped."""

    def _checked(self, loaded: Any, where: str) -> type[Retriever]:
        # Imported here: it needs numpy, and listing or completing names does not.
        from harness.encoder import Encoder, EncoderRetriever

        if isinstance(loaded, type) and issubclass(loaded, Encoder):
            _check_declared(loaded, where)
            return EncoderRetriever.around(loaded)
        return super()._checked(loaded, where)


def _check_declared(loaded: type[Plugin], where: str) -> None:
    """Check what every plugin declares, before anything is made of it."""
    abstract: frozenset[str] = getattr(loaded, "__abstractmethods__", frozenset())
    if abstract:
        missing = ", ".join(sorted(abstract))
        raise PluginError(f"{where} does not implement {missing}.")
    if not isinstance(getattr(loaded, "about", None), About):
        raise PluginError(
            f"{where} declares no `about`; give it an About with title, version, licence and "
            "citation."
        )
    if loaded.api_version != API_VERSION:
        raise PluginError(
            f"{where} is written for plugin API {loaded.api_version}, this clamr-bench has "
            f"{API_VERSION}; install a matching version of one of them."
        )


class _FileLoader(SourceFileLoader):
    """Runs a plugin's file as it is now.

    The standard loader trusts compiled code of the same second and size: an edit could run as the
    old code under the new digest. It would also write ``__pycache__`` beside the user's file.
    """

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


TASKS: Registry[Task] = Registry("clamr_bench.tasks", "task", Task)  # type: ignore[type-abstract]
RETRIEVERS: Registry[Retriever] = _Retrievers(
    "clamr_bench.retrievers",
    "retriever",
    Retriever,  # type: ignore[type-abstract]
)


def make_task(address: str, settings: Mapping[str, Any] | None = None) -> Task:
    """Make the task at `address` (``multivent/v1``, ``my.py:MyTask``) with its settings."""
    found = TASKS.find(address)
    if found.rest and found.rest not in found.plugin.variants and found.file is None:
        # Variants are mostly registered by themselves: "multivent/v9" is nearest to one of those.
        own = {f"{found.name}/{variant}" for variant in found.plugin.variants if variant}
        family = {name for name in TASKS.names() if name.partition("/")[0] == found.name}
        known = sorted(own | family)
        raise UsageError(
            f"task {found.name!r} has no variant {found.rest!r}; there are {', '.join(known)}."
            + did_you_mean(address, known)
        )
    task = found.plugin(found.name, found.rest, _settings(found, settings))
    task.file, task.source_sha256 = found.file, found.source_sha256
    return task


def make_retriever(address: str, settings: Mapping[str, Any] | None = None) -> Retriever:
    """Make the retriever at `address` (``bm25-asr``, ``clamr/tiny``, ``my.py:Mine``)."""
    found = RETRIEVERS.find(address)
    retriever = found.plugin(found.name, found.rest or None, _settings(found, settings))
    retriever.file, retriever.source_sha256 = found.file, found.source_sha256
    return retriever


def _settings(found: Found[P], values: Mapping[str, Any] | None) -> Settings:
    return parse_model(found.plugin.Settings, values or {}, f"setting of {found.name}")
