"""Makes ``vocab.txt`` of the tiny model: ``python -m retrievers.preflmr.tiny.make_vocabulary``.

Word pieces as BERT's, trained once on the texts and queries of the samples' train splits (seed 0).
Letters, digits and punctuation of ASCII are all there, so that other words are spelt. The file is
frozen: another one makes trained tiny weights useless.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.trainers import WordPieceTrainer

from harness.progress import Progress
from harness.registry import make_task
from retrievers.preflmr.wordpieces import DOCUMENTS, QUERIES, VOCABULARY

#: Most entries.
SIZE = 2800
#: Samples whose words the vocabulary has.
TASKS = ("multivent/sample", "m2kr/sample")
#: The first is padding, whose number is 0.
MARKS = ("[PAD]", QUERIES.mark, DOCUMENTS.mark, "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def texts() -> Iterator[str]:
    """Yield what the vocabulary is made of."""
    for address in TASKS:
        split = make_task(address).load("train", None, Progress())
        for document in split.documents:
            yield from document.texts.values()
        for query in split.queries:
            yield f"{query.instruction or ''} {query.text}"


def make() -> list[str]:
    """Return the entries, in the order of their numbers."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    letters = string.ascii_lowercase + string.digits
    trainer = WordPieceTrainer(
        vocab_size=SIZE,
        special_tokens=[*MARKS, *string.punctuation],
        # One of each alone and one behind another letter.
        initial_alphabet=[*letters, *string.punctuation],
        show_progress=False,
    )
    made.train_from_iterator(texts(), trainer)
    found = sorted(made.get_vocab().items(), key=lambda item: item[1])
    words = [word for word, _ in found]
    return [*words, *(f"##{letter}" for letter in letters if f"##{letter}" not in words)]


if __name__ == "__main__":
    file = Path(__file__).with_name(VOCABULARY)
    file.write_text("".join(f"{word}\n" for word in make()), encoding="utf-8")
