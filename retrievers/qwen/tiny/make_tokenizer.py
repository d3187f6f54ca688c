"""Makes ``tokenizer.json`` of the tiny models: ``python -m retrievers.qwen.tiny.make_tokenizer``.

Byte-level BPE, trained once on the texts and queries of the sample's train split (seed 0) and on
the prompts. Any other text is spelt in bytes. The split into words, the normalisation and the marks
are Qwen2.5's; the marks of all forms are there. The file is frozen: another one makes trained
tiny weights useless.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from harness.progress import Progress
from harness.registry import make_task
from harness.types import Modality
from retrievers.clamr.prompt import PREFIXES
from retrievers.qwen.form import FORMS
from retrievers.source import TOKENIZER

#: Entries, the 256 bytes and the marks included: 1.3 tokens a word of the sample.
SIZE = 3074

#: How Qwen2.5 splits text before pairs are merged.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

#: The names of modalities, but for that of a plain text: it came after the file was frozen.
_NAMES = [name for modality, name in PREFIXES.items() if modality is not Modality.TEXT]


def texts() -> Iterator[str]:
    """Yield what the vocabulary is made of."""
    split = make_task("multivent/sample").load("train", None, Progress())
    for document in split.documents:
        yield from (f" {text}" for text in document.texts.values())
    yield from (f" {query.text}" for query in split.queries)
    # Often enough that each word of a prompt is one token; "user" has to be.
    for _ in range(100):
        yield from dict.fromkeys(form.system for form in FORMS)
        yield from (f" {prefix}" for prefix in _NAMES)
        yield from _NAMES
        yield "Query: system\nuser\n"


def marks() -> list[str]:
    """Return the special tokens, first the one that pads."""
    used = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    for form in FORMS:
        for mark in (form.video, form.audio):
            if mark is not None:
                used += [mark.begin, mark.place, mark.end]
    return list(dict.fromkeys([*used, *(form.image.place for form in FORMS)]))


def make() -> Tokenizer:
    """Train the tokeniser."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=SIZE - len(marks()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts(), trainer)
    made.add_special_tokens([AddedToken(mark, special=True) for mark in marks()])
    return made


if __name__ == "__main__":
    make().save(str(Path(__file__).with_name(TOKENIZER)), pretty=False)
