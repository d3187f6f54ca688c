"""Encoding documents from mp4 with CLaMR's tiny model, against a plain loop.

    python benchmarks/encode.py [--documents 96] [--rounds 3] [--threads 1]

The videos are the sample's; their texts are replaced by texts of mixed length, as real speech and
on-screen text have: log-normal, a tenth of the documents near the limits, some without a modality.
"Plain, padded to 2,048" is what the reference does: batches of 4 in the order in which they come,
every sequence padded to its 2,048 tokens, frames decoded in the main process. "Plain, padded to the
longest" is the same, padded to the batch's longest sequence. "Ours" is the encoder: batches by
length under a token budget, frames decoded in worker processes ahead of the model. All give the
same vectors, which is checked.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace

import numpy as np
import torch
from _measure import side_by_side, write_json

from harness.documents import ListedDocuments
from harness.late_interaction import TokenEmbeddings
from harness.media import FrameSampling, read_frames
from harness.progress import Progress
from harness.registry import make_task
from harness.types import Document, Modality
from retrievers.clamr.encoder import Clamr
from retrievers.clamr.settings import ClamrSettings
from retrievers.qwen.form import TEXTS
from retrievers.qwen.sequence import Content

PLAIN, LONGEST, OURS = "plain, padded to 2,048", "plain, padded to the longest", "ours"
BATCH = 4
LENGTH = 2048


def corpus(count: int) -> list[Document]:
    """Return sample videos with texts of mixed length."""
    split = make_task("multivent/sample").load("test", None, Progress())
    videos = list(split.documents)
    rng = np.random.default_rng(3)
    words = sorted({word for video in videos for t in video.texts.values() for word in t.split()})
    made = []
    for number in range(count):
        texts = {}
        for modality in TEXTS:
            if rng.random() < 0.2:
                continue
            length = min(400, int(rng.lognormal(3.0, 1.1)) + 1)
            texts[modality] = " ".join(rng.choice(words, length))
        made.append(replace(videos[number % len(videos)], id=f"d{number}", texts=texts))
    return made


def plain(encoder: Clamr, documents: list[Document], length: int | None) -> list[np.ndarray]:
    """Encode in the order given, in padded batches."""
    engine = encoder.engine
    sampling = FrameSampling("uniform", encoder.settings.frames)
    found: list[np.ndarray] = []
    for first in range(0, len(documents), BATCH):
        sequences = []
        for document in documents[first : first + BATCH]:
            frames = read_frames(document.media[Modality.VIDEO], sampling)
            content = Content(frames=list(frames.pixels), texts=document.texts)
            sequences += engine.prompt.document(content)
        batch = engine.model.collate(sequences, engine.prompt.pad)
        if length is not None:
            batch = widened(batch, length, engine.prompt.pad)
        with torch.inference_mode():
            vectors = engine.model(batch).numpy()
        found += [
            vectors[row, : len(tokens)][tokens.modalities != 0]
            for row, tokens in enumerate(sequences)
        ]
    return found


def widened(batch: object, length: int, pad: int) -> object:
    """Return the batch padded to `length`."""
    short = length - batch.ids.shape[1]
    fill = torch.nn.functional.pad
    return replace(
        batch,
        ids=fill(batch.ids, (0, short), value=pad),
        mask=fill(batch.mask, (0, short)),
        positions=fill(batch.positions, (0, short)),
    )


def ours(encoder: Clamr, documents: list[Document]) -> TokenEmbeddings:
    """Encode as the harness does: the encoder's batches, one after another."""
    size, parts = encoder.settings.batch_size, []
    for first in range(0, len(documents), size):
        encoder.expect(documents[first + size : first + 2 * size])
        parts.append(encoder.encode_documents(documents[first : first + size]))
    return TokenEmbeddings.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch, for every way")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/encode.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    documents = corpus(arguments.documents)
    encoder = Clamr("clamr", "tiny", ClamrSettings())
    agree(encoder, documents[:8])
    # Worker processes do not survive the fork in which memory is measured: each starts its own.
    encoder.close()
    timing = os.getpid()

    def ours_once() -> None:
        ours(encoder, documents)
        if os.getpid() != timing:
            encoder.close()

    ways = {
        PLAIN: lambda: plain(encoder, documents, LENGTH),
        LONGEST: lambda: plain(encoder, documents, None),
        OURS: ours_once,
    }
    table = side_by_side(
        f"Encode {len(documents)} documents from mp4",
        ways,
        baseline=PLAIN,
        rounds=arguments.rounds,
    )
    encoder.close()
    print(table.markdown(), end="\n\n")
    for row in table.rows:
        print(f"{row.name}: {len(documents) / row.median_s:.1f} documents/s")
    started = time.perf_counter()
    for document in documents:
        read_frames(document.media[Modality.VIDEO], FrameSampling("uniform", 10))
    print(f"Decoding alone, in one process: {time.perf_counter() - started:.2f} s")
    if arguments.save:
        packages = ("torch", "transformers", "av")
        print(write_json("encode", [table], packages=packages, settings=vars(arguments)))


def agree(encoder: Clamr, documents: list[Document]) -> None:
    """Check that all ways give the same vectors, so that the comparison means something."""
    made = ours(encoder, documents)
    assert len(ListedDocuments(documents)) == len(made)
    for number, (short, long) in enumerate(
        zip(plain(encoder, documents, None), plain(encoder, documents, LENGTH), strict=True)
    ):
        np.testing.assert_allclose(short, long, rtol=0, atol=1e-5)
        item = made[number : number + 1]
        kept = np.repeat(item.modalities, np.diff(item.segment_offsets)) != 0
        assert len(item.vectors[kept]) == len(short)
        # The encoder's tokens are ordered by modality: compare them as a set of directions.
        np.testing.assert_allclose(
            np.sort(item.vectors[kept], axis=0), np.sort(short, axis=0), rtol=0, atol=1e-5
        )


if __name__ == "__main__":
    main()
