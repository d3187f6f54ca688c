"""Documents in portions, and what a killed preparation has done of them."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.dataset.manifest import Gap, Part
from harness.errors import DataError
from harness.files import atomic_write, replace_folder, writable_folder
from harness.types import Document

#: A part of the documents ends with the first portion that reaches this many rows: about 50 parts
#: for MultiVENT 2.0. A preparation that was killed does at most one part again.
PART_ROWS = 2048

_RECORDS = ".progress"
_IDENTITY = "identity.json"


@dataclass(frozen=True, slots=True)
class Portion:
    """Some documents of a split that are read together, such as those of a tar file.

    Attributes
    ----------
    name
        What messages call it.
    key
        Names all that determines the documents beyond the portions before: source files with
        their sizes and times. Where it is the same, a preparation that was killed goes on. ``""``
        is never the same.
    documents
        Reads them. Gaps that are met here are counted with the portion.
    """

    name: str
    key: str
    documents: Callable[[], Iterable[Document]]


class Portions:
    """Portions in their order, with a look at those that come next.

    Parameters
    ----------
    items
        Portions; or documents, which go into portions of `PART_ROWS` without a key.
    """

    def __init__(self, items: Iterable[Document] | Iterable[Portion]) -> None:
        self._coming = _portions(items)
        self._seen: deque[Portion] = deque()

    def __iter__(self) -> Iterator[Portion]:
        while self._look(1):
            yield self._seen.popleft()

    def _look(self, number: int) -> bool:
        """Whether there are so many more; reads no documents."""
        while len(self._seen) < number:
            following = next(self._coming, None)
            if following is None:
                return False
            self._seen.append(following)
        return True

    def skip(self, portions: Sequence[tuple[str, str]]) -> bool:
        """Leave out the next portions if their names and keys are `portions`."""
        if not portions or not self._look(len(portions)):
            return False
        for there, (name, key) in zip(self._seen, portions, strict=False):
            if not key or (there.name, there.key) != (name, key):
                return False
        for _ in portions:
            self._seen.popleft()
        return True


def _portions(items: Iterable[Document] | Iterable[Portion]) -> Iterator[Portion]:
    chunk: list[Document] = []
    for item in from_source(items):
        if isinstance(item, Portion):
            yield item
            continue
        chunk.append(item)
        if len(chunk) == PART_ROWS:
            yield _chunk(chunk)
            chunk = []
    if chunk:
        yield _chunk(chunk)


def _chunk(documents: list[Document]) -> Portion:
    return Portion("", "", lambda: documents)


def from_source(items: Iterable[Any]) -> Iterator[Any]:
    """Yield the items; an error of the files they are read from is not one of the store's.

    Raises
    ------
    DataError
        If a source file cannot be read.
    """
    try:
        yield from items
    except OSError as error:
        raise DataError(f"the source cannot be read: {error}.") from error


class PartRecord(BaseModel):
    """A part that is complete: its file, its portions (name, key, rows), its gaps."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    part: Part
    portions: list[tuple[str, str, int]]
    gaps: dict[str, Gap]


class Unfinished:
    """The folder of a store that is being written, and which of its parts are complete.

    Parameters
    ----------
    folder
        The folder; it is emptied unless a preparation of the same `identity` left it.
    identity
        What determines the store besides the source files themselves.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder, self._records = folder, folder / _RECORDS
        card = self._records / _IDENTITY
        text = json.dumps(identity, sort_keys=True)
        try:
            if not card.is_file() or card.read_text(encoding="utf-8") != text:
                shutil.rmtree(folder, ignore_errors=True)
            writable_folder(self._records, "dataset folder")
            if not card.is_file():
                with atomic_write(card) as temporary:
                    temporary.write_text(text, encoding="utf-8")
        except BaseException:
            self.leave()
            raise

    def complete(self) -> int:
        """Return how many parts are complete."""
        return sum(path.name != _IDENTITY for path in self._records.glob("*.json"))

    def save(self, split: str, number: int, record: PartRecord) -> None:
        """Record that a part is complete; its file is whole by now."""
        with atomic_write(self._path(split, number)) as temporary:
            temporary.write_text(record.model_dump_json(), encoding="utf-8")

    def load(self, split: str, number: int) -> PartRecord | None:
        """Return the record of a part, or None if it is not complete."""
        try:
            text = self._path(split, number).read_text(encoding="utf-8")
            return PartRecord.model_validate_json(text)
        except (FileNotFoundError, ValidationError):
            return None

    def forget(self, split: str, number: int) -> None:
        """Forget the parts of `split` from `number` on."""
        for path in self._records.glob(f"{split}-?????.json"):
            if path >= self._path(split, number):
                path.unlink()

    def _path(self, split: str, number: int) -> Path:
        return self._records / f"{split}-{number:05d}.json"

    def leave(self) -> None:
        """Keep the complete parts for the next time; without any, remove the folder."""
        if not self.complete():
            shutil.rmtree(self.folder, ignore_errors=True)

    def finish(self, files: Set[str], place: Path) -> None:
        """Put the folder, with nothing but `files`, into its place."""
        for path in self.folder.rglob("*"):
            if path.is_file() and self._records not in path.parents:
                name = path.relative_to(self.folder).as_posix()
                if name not in files:
                    path.unlink()
        replace_folder(self.folder, place)
        # Only now: a process that is killed before has not lost what it had done.
        shutil.rmtree(place / _RECORDS)
