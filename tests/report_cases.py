"""What the tests of the pages share: an encoder that reads all, a small run, parsed pages."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.results import ResultsStore, SavedRun
from tests.test_explain import PLUGIN

#: `PLUGIN` that also has two boxes of the first frame, the whole of another, a stretch of sound,
#: and a token of no place. Frames are not decoded: their vectors are of numbers.
READER = (
    PLUGIN.replace(
        "READS = frozenset({Modality.ASR, Modality.DESCRIPTION})",
        "READS = frozenset({Modality.VIDEO, Modality.AUDIO, Modality.ASR, Modality.OCR, "
        "Modality.DESCRIPTION})",
    )
    .replace(
        "        if not found:",
        """\
        if Modality.VIDEO in document.media:
            seen = [(0.0, 0.1, 0.0, 0.0, 0.5, 0.5, 0), (0.0, 0.1, 0.5, 0.5, 1.0, 1.0, 0),
                    (1.0, 1.0, NAN, NAN, NAN, NAN, 12), (*[NAN] * 7,)]
            heard = [(0.5, 1.25, *[NAN] * 5)]
            found = [(m, f"{document.id} {m} {n}", *span)
                     for m, spans in ((Modality.VIDEO, seen), (Modality.AUDIO, heard))
                     for n, span in enumerate(spans)] + [(*one, *[NAN] * 5) for one in found]
        else:
            found = [(*one, *[NAN] * 5) for one in found]
        if not found:""",
    )
    .replace(
        "spans = np.array([[start, end, *[NAN] * 5] for *_, start, end in found], np.float32)",
        "spans = np.array([span for _, _, *span in found], np.float32)",
    )
)


def folders(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let commands find data, indexes and results in `folder`."""
    for name in ("data", "cache", "results"):
        patch.setenv(f"CLAMR_BENCH_{name.upper()}", str(folder / name))


def small_run(folder: Path) -> SavedRun:
    """Run the encoder on six generated videos, beside BM25."""
    path = folder / "reader.py"
    path.write_text(READER)
    sizes = ("test_videos=6", "train_videos=2")
    settings = [word for size in sizes for word in ("--set", f"multivent/sample.{size}")]
    for retriever in ("bm25-text", f"{path}:Mixing"):
        assert main(["run", "--task", "multivent/sample", *settings, "--retriever", retriever]) == 0
    [saved] = [
        r for r in ResultsStore(folder / "results").runs() if "Mixing" in r.folder.parent.name
    ]
    return saved


@dataclass
class Page(HTMLParser):
    """A page taken apart as a browser does: what would load, run, or be shown."""

    text: str
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._inside: list[str] = []
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in {"script", "style"}:
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and tag == self._inside[-1]:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if self._inside == ["script"]:
            self.scripts.append(data)
        elif not self._inside:
            self.shown.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.shown).split())

    @property
    def data(self) -> Any:
        """What the script reads."""
        return json.loads(self.scripts[0])

    def with_attribute(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.tags if name in attributes]

    @property
    def loads(self) -> list[str]:
        """Addresses that a browser would ask for."""
        found = [
            value or ""
            for tag, attributes in self.tags
            for name, value in attributes.items()
            if name in {"src", "srcset", "poster", "data", "action", "background"}
            or (name == "href" and tag != "a")
        ]
        style = re.findall(r"url\(([^)]*)\)|@import", self.text)
        return [address for address in found if not address.startswith("data:")] + style


def page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))
