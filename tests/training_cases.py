"""A task with training data in memory, and a trainable encoder of a few thousand parameters."""

from __future__ import annotations

from pathlib import Path

PLUGIN = '''\
import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from harness.api import (
    About, Capabilities, DataError, Document, Encoder, EncoderSettings, Modality, Protocol, Query,
    Split, Task, TokenEmbeddings,
)

READS = (Modality.ASR, Modality.OCR)
WORDS = [f"w{number}" for number in range(40)]


def number(word):
    return int(hashlib.sha256(word.encode()).hexdigest()[:8], 16) % 200


class BagSettings(EncoderSettings):
    batch_size: int = 8
    broken: str = ""


class Bag(Encoder):
    """Embeds words by a table and a layer with dropout; each token has its own vector."""

    about = About(title="A table of words", version="1", licence="MIT", citation="none")
    capabilities = Capabilities(modalities=frozenset(READS), trainable=True)
    Settings = BagSettings
    weights_help = "a folder"

    def __init__(self, name, weights, settings):
        super().__init__(name, weights, settings)
        generator = torch.Generator().manual_seed(0)
        self._module = torch.nn.Sequential(
            torch.nn.Embedding(200, 16), torch.nn.Dropout(0.1), torch.nn.Linear(16, 16)
        )
        with torch.no_grad():
            for parameter in self._module.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        self.untrained = weights is None
        if weights:
            self._module.load_state_dict(torch.load(f"{weights}/bag.pt", weights_only=True))
        self._module.eval()

    @property
    def module(self):
        return self._module

    def lora_targets(self):
        return ["2"]

    def _padded(self, rows):
        longest = max(1, max(len(words) for words, _ in rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        kinds = torch.zeros(len(rows), longest, dtype=torch.int64)
        for place, (words, modalities) in enumerate(rows):
            ids[place, : len(words)] = torch.tensor([number(w) for w in words], dtype=torch.int64)
            kinds[place, : len(words)] = torch.tensor(modalities, dtype=torch.int64)
        vectors = torch.nn.functional.normalize(self._module(ids), dim=-1)
        return vectors * (kinds > 0)[..., None], kinds

    def forward_queries(self, batch):
        made = self._padded([(q.text.split(), [7] * len(q.text.split())) for q in batch])
        if self.settings.broken and any(self.settings.broken in q.text.split() for q in batch):
            return made[0] * float("nan"), made[1]
        return made

    def forward_documents(self, batch):
        rows = []
        for document in batch:
            words = [(w, int(m)) for m in READS for w in document.texts.get(m, "").split()]
            rows.append(([w for w, _ in words], [m for _, m in words]))
        return self._padded(rows)

    def _encoded(self, vectors, kinds):
        return TokenEmbeddings.from_padded(
            vectors.detach().numpy(), (kinds > 0).numpy().astype(np.int64),
            kinds.numpy().astype(np.uint8),
        )

    def encode_queries(self, batch):
        return self._encoded(*self.forward_queries(batch))

    def encode_documents(self, batch):
        return self._encoded(*self.forward_documents(batch))

    def save(self, folder):
        torch.save(self._module.state_dict(), folder / "bag.pt")


class Fixed(Bag):
    capabilities = Capabilities(modalities=frozenset(READS))


def split(name, first, count):
    rng = np.random.default_rng(first)
    documents, queries, qrels = [], [], {}
    for place in range(first, first + count):
        asr, ocr = (rng.choice(WORDS, 5, replace=False) for _ in range(2))
        documents.append(Document(
            f"d{place}", {Modality.ASR: " ".join(asr), Modality.OCR: " ".join(ocr)}
        ))
        for target, words in (("asr", asr), ("ocr", ocr)):
            id_ = f"q{place}-{target}"
            # Another word stands for each: what is to be learned.
            text = " ".join("x" + word for word in words[:3])
            queries.append(Query(id_, text, attributes={"target": target}))
            qrels[id_] = {f"d{place}": 1}
    return Split.of(name, documents, queries, qrels)


class Renamed(Task):
    about = About(title="Words by other names", version="1", licence="MIT", citation="none")
    protocol = Protocol(name="renamed", candidates="all", relevance="its own")

    def load(self, name, data, progress):
        if name not in ("test", "train"):
            raise DataError(f"there is no split {name}")
        return split(name, *((0, 20) if name == "test" else (100, 120)))


class Untrainable(Renamed):
    def load(self, name, data, progress):
        if name != "test":
            raise DataError(f"there is no split {name!r}")
        return super().load(name, data, progress)
'''

RECIPE = """\
schema_version: 1
adapter: {kind: full}
loss: {temperature: 0.1}
optimiser: {lr: 0.05, warmup: 2}
batch: {documents: 12, queries: 2}
phases:
  - {steps: 8, modality: {asr: 1, ocr: 1}}
  - {epochs: 5}
validation: {every: 20, share: 0.2}
precision: fp32
checkpoint_every: 4
"""


def write(folder: Path, recipe: str = RECIPE) -> tuple[str, str, str]:
    """Write plugin and recipe; return the addresses of task, retriever and recipe."""
    path = folder / "bag.py"
    path.write_text(PLUGIN)
    (folder / "words.yaml").write_text(recipe)
    return f"{path}:Renamed", f"{path}:Bag", str(folder / "words.yaml")
