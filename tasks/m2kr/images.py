"""The images that rows name by a relative path: plain files, or members of an uncompressed tar.

Paths in the rows and files on disk differ in small ways: in the ending (``.JPEG`` for ``.jpg``), in
Infoseek's missing shard folder, in a folder a data set. What had to be tried is counted.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from harness.errors import DataError
from harness.types import Media
from tasks.m2kr.subsets import Subset
from tasks.m2kr.tables import Gap
from tasks.multivent.archives import members_in_place

_ENDINGS = (".jpg", ".jpeg", ".JPEG", ".JPG", ".png", ".PNG")
#: What the official archives end in that cannot be read in place.
_PACKED = ("*.zip", "*.zip.0*", "*.tar.gz", "*.tgz")

MISSING = "images that are missing"


class Images:
    """Finds the images of one subset.

    Parameters
    ----------
    sources
        Folders, searched in this order: each itself, then the subset's folders below it.
    subset
        Whose images.
    gap
        Called with a kind and an example of what is missing.

    Attributes
    ----------
    counts
        How many images were found, and how many of them otherwise than their path says.
    """

    def __init__(self, sources: Sequence[Path], subset: Subset, gap: Gap) -> None:
        folders = [source / name for source in sources for name in ("", *subset.images)]
        self._roots = list(dict.fromkeys(folder for folder in folders if folder.is_dir()))
        self._prefixes, self._gap = subset.image_prefixes, gap
        self._members: dict[str, Media] | None = None
        # Images of one kind lie together: where the last one was found, the next one mostly is.
        self._last: tuple[Path, str, str | None] | None = None
        self.counts: Counter[str] = Counter()

    def find(self, path: str, where: str) -> Media | None:
        """Return the image at a path, or None, which is counted as a gap.

        Parameters
        ----------
        path
            Relative path, as in the row.
        where
            The row, for messages.

        Raises
        ------
        DataError
            If the path points outside of the sources.
        """
        given = PurePosixPath(path)
        if given.is_absolute() or ".." in given.parts:
            raise DataError(
                f"{where}: img_path {path!r} points outside of the image folder; it must be "
                "relative to it."
            )
        found = self._file(given) or self._member(given)
        if found is None:
            self._missing(path)
            return None
        self.counts["images"] += 1
        return found

    def _file(self, given: PurePosixPath) -> Media | None:
        for root, prefix, ending in self._places():
            name = given if ending is None else given.with_suffix(ending)
            path = root / prefix / name
            try:
                status = path.stat()
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                self._last = (root, prefix, ending)
                self.counts["images with another ending"] += path.suffix != given.suffix
                self.counts["images in a shard folder"] += bool(prefix)
                return Media(path, path.name, status.st_size)
        return None

    def _places(self) -> Iterator[tuple[Path, str, str | None]]:
        if self._last is not None:
            root, prefix, ending = self._last
            yield root, prefix, None
            yield root, prefix, ending
        for ending in (None, *_ENDINGS):
            for root in self._roots:
                for prefix in self._prefixes:
                    yield root, prefix, ending

    def _member(self, given: PurePosixPath) -> Media | None:
        """Return a member of a tar by its file name; tars are indexed when first needed."""
        if self._members is None:
            self._members = {}
            for root in self._roots:
                for archive in sorted(root.glob("*.tar")):
                    self._members |= members_in_place(archive, self._gap)
        for ending in (None, *_ENDINGS):
            name = given if ending is None else given.with_suffix(ending)
            found = self._members.get(name.name)
            if found is not None:
                self.counts["images in a tar"] += 1
                self.counts["images with another ending"] += name.suffix != given.suffix
                return found
        return None

    def _missing(self, path: str) -> None:
        if not self.counts[MISSING]:
            for packed in (p for root in self._roots for kind in _PACKED for p in root.glob(kind)):
                self._gap("archives of images that must be unpacked", str(packed))
        self.counts[MISSING] += 1
        folders = ", ".join(map(str, self._roots)) or "no folder"
        self._gap(MISSING, f"{path} (looked in {folders})")
