"""A small encoder plugin, its documents and queries, for tests of what the harness does with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.documents import ListedDocuments
from harness.types import Document, Modality, Query, Ranking
from harness.workspace import Workspace

PLUGIN = """\
import hashlib
import numpy as np
from harness.api import About, Capabilities, Encoder, EncoderSettings, Modality, TokenEmbeddings

READS = frozenset({Modality.ASR, Modality.OCR})

def vectors(text):
    seeds = [int(hashlib.sha256(w.encode()).hexdigest()[:8], 16) for w in text.lower().split()]
    rows = [np.random.default_rng(seed).standard_normal(32) for seed in seeds]
    return np.array(rows or np.zeros((0, 32)), np.float32)

class WordsSettings(EncoderSettings):
    batch_size: int = 2

class Words(Encoder):
    about = About(title="A vector a word", version="1", licence="MIT", citation="none")
    capabilities = Capabilities(modalities=READS)
    Settings = WordsSettings

    def encode_queries(self, batch):
        return TokenEmbeddings.of([{Modality.TEXT: vectors(q.text)} for q in batch], 32)

    def encode_documents(self, batch):
        return TokenEmbeddings.of(
            [{m: vectors(d.texts[m]) for m in READS if m in d.texts} for d in batch], 32
        )
"""

#: Four documents of eight words of 32 fp16 numbers: a shard ends with the second batch of two.
SMALL_SHARD = 1024

WORDS = ["red", "green", "blue", "circle", "square", "star", "moon", "river", "stone", "cloud"]

QUERIES = [Query("q1", "red circle"), Query("q2", "stone river moon"), Query("q3", "")]


def documents(number: int) -> ListedDocuments:
    """One empty document and `number` of eight words."""
    rng = np.random.default_rng(7)
    made = [Document("empty")]
    for index in range(number):
        texts = {m: " ".join(rng.choice(WORDS, 4)) for m in (Modality.ASR, Modality.OCR)}
        if index % 3 == 0:
            del texts[Modality.OCR]
        made.append(Document(f"d{index:03d}", texts))
    return ListedDocuments(made)


def plugin(folder: Path, source: str = PLUGIN) -> str:
    """Write the plugin and return its address."""
    path = folder / "words.py"
    path.write_text(source)
    return f"{path}:Words"


def workspace(folder: Path) -> Workspace:
    """Return a workspace in `folder`."""
    return Workspace(folder, {"test": 1})


def as_bytes(ranking: Ranking) -> dict[str, tuple[list[str], bytes]]:
    """Return a ranking with its scores to the bit."""
    return {q: (list(row.documents), row.scores.tobytes()) for q, row in ranking.items()}
