"""The reference implementation's own token stream and modality ids, faults included.

For numbers that are to be compared with published ones. It differs from `retrievers.clamr.prompt`
in what CLaMR's code does (meetdavidwan/clamr at 353c30e):

- a text that a document lacks is an empty text behind its name;
- texts are measured without the blank that is later put before them, and cut by decoding and
  encoding again: modality ids drift by a token for each text and spill past the end of the turn;
- the Omni form's chat turn has no role, and its frames are resized twice, the second time to
  100,352 pixels at least;
- the Omni form never hears: the released script drops the sound;
- the whole sequence is cut at 2,048 tokens, a query at 64 with its augmentation;
- encoded apart, every token of a modality counts as its content, the prompt too.

Tokens of no modality, and padding as a vector of zeros, compete in the scores: that is the
scoring options' part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.types import Modality
from retrievers.clamr.prompt import PREFIXES, ClamrPrompt
from retrievers.pictures import Picture
from retrievers.qwen.form import OMNI, TEXTS
from retrievers.qwen.prompt import PAD
from retrievers.qwen.sequence import NOWHERE, Content, Tokens, TokensBuilder
from retrievers.qwen.vision import Patches, cut, resized, size_for

#: Tokens of a document, at most.
LENGTH = 2048
#: Area of the Omni processor's second resize: 128 and 768 tokens.
OMNI_PIXELS = (128 * 28 * 28, 768 * 28 * 28)


class ReferencePrompt(ClamrPrompt):
    """Makes the reference's sequences (see the module).

    `role` is what the Omni form's turn is headed by; the reference leaves it empty by a typing
    error.
    """

    role = ""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._lost: set[Modality] = set()

    def query(self, text: str, picture: Picture = None) -> Tokens:
        """Return the query, cut with its augmentation tokens; the reference knows no picture."""
        settings = self.settings
        joined = settings.query_prefix + text + PAD * settings.query_augmentation
        built = TokensBuilder()
        self.add_picture(built, picture)
        built.add(self.vocabulary.encode_marked(joined)[: settings.query_length], Modality.TEXT)
        return built.build()

    def document(self, content: Content) -> list[Tokens]:
        """Return the document's sequences; a document without anything has names of texts."""
        if not self.settings.contextualise:
            return self._apart(content)
        texts = {modality: self._cut(modality, content) for modality in self._texts(content)}
        patches = self._patches(content)
        said = "".join(f" {self.vocabulary.decode(text)}" for text in texts.values())
        whole = self._turn(patches, said)
        ids = whole[:LENGTH]
        self._check_fits(ids, patches)
        over = len(whole) - LENGTH - len(self._footer)
        for modality in reversed(texts):
            if over > 0 and modality in content.texts:
                self._lost.add(modality)
            over -= len(texts[modality])
        self._count()
        lengths = {modality: len(text) for modality, text in texts.items()}
        labels = self._labels(ids, patches, lengths)
        return [self._tokens(ids, labels, patches)]

    def _texts(self, content: Content) -> tuple[Modality, ...]:
        """Return the text modalities that are read, whether or not the document has them.

        The reference knows no plain text: it comes last where a document has one.
        """
        asked = self.settings.encode_modalities
        read = (each for each in TEXTS if asked is None or each in asked)
        return tuple(each for each in read if each is not Modality.TEXT or each in content.texts)

    def _apart(self, content: Content) -> list[Tokens]:
        sequences = []
        patches = self._patches(content)
        if patches is not None:
            ids = self._turn(patches, "")
            sequences.append(
                self._tokens(ids, np.full(len(ids), Modality.VIDEO, np.uint8), patches)
            )
        for modality in self._texts(content):
            ids = self._cut(modality, content)
            sequences.append(self._tokens(ids, np.full(len(ids), modality, np.uint8), None))
        self._count()
        return sequences

    def _turn(self, patches: Patches | None, said: str) -> list[int]:
        """Return the ids of the chat turn, tokenised as one text."""
        marks = self.form.video
        header = self.header
        if self.form is OMNI:
            header = header.removesuffix("user\n") + f"{self.role}\n"
        seen = ""
        if patches is not None:
            name = PREFIXES[Modality.VIDEO] if self.names_media else ""
            seen = name + marks.begin + marks.place * patches.tokens + marks.end
        return self.vocabulary.encode_marked(f"{header}{seen}{said}<|im_end|>\n")

    def _cut(self, modality: Modality, content: Content) -> list[int]:
        """Return the tokens of a named text, cut to its length."""
        text = PREFIXES[modality] + content.texts.get(modality, "")
        ids, length = self.vocabulary.encode_marked(text), self.settings.length_of(modality)
        if len(ids) > length:
            self._lost.add(modality)
        return ids[:length]

    def _count(self) -> None:
        """Count the texts of this document that were cut, each once."""
        for modality in self._lost:
            self.losses[f"{modality.label} cut"] += 1
        self._lost.clear()

    def _labels(
        self, ids: list[int], patches: Patches | None, lengths: Mapping[Modality, int]
    ) -> NDArray[np.uint8]:
        found = np.asarray(ids)
        labels = np.zeros(len(ids), np.uint8)
        marks = self.form.video
        begin, end = (found == self.vocabulary.id(mark) for mark in (marks.begin, marks.end))
        inside = np.cumsum(begin) - np.cumsum(end) > 0
        labels[inside] = Modality.VIDEO
        place = self._after(found, end if patches is not None else None)
        for modality, length in lengths.items():
            labels[place : place + length] = modality
            place += length
        return labels

    def _after(self, ids: NDArray[np.int64], end: NDArray[np.bool_] | None) -> int:
        """Return where the reference takes the texts to begin."""
        if end is not None:
            return int(np.flatnonzero(end)[0]) + 1
        # Without a video: after the word "user", before the line break. Where the Omni turn has no
        # role the reference fails; here they begin after the turn's own mark.
        if self.form is OMNI and not self.role:
            return int(np.flatnonzero(ids == self.vocabulary.id("<|im_start|>"))[-1]) + 1
        return int(np.flatnonzero(ids == self.vocabulary.id("user"))[0]) + 1

    def _check_fits(self, ids: list[int], patches: Patches | None) -> None:
        if patches is not None and self.vocabulary.id(self.form.video.end) not in ids:
            raise UsageError(
                f"a video of {patches.tokens} tokens does not fit into the reference's {LENGTH}: "
                "set fewer frames or max_pixels, or compat=false, which cuts no video."
            )

    def _tokens(self, ids: list[int], labels: NDArray[np.uint8], patches: Patches | None) -> Tokens:
        nowhere = np.full((len(ids), len(NOWHERE)), np.nan, np.float32)
        found = np.asarray(ids, np.int64)
        if patches is None:
            return Tokens(found, labels, nowhere)
        places = found == self.vocabulary.id(self.form.video.place)
        return Tokens(found, labels, nowhere, patches, None, int(np.argmax(places)))

    def _patches(self, content: Content) -> Patches | None:
        if not len(content.frames):
            return None
        factor = self.patching.factor
        low, high = self.settings.min_pixels, self.settings.max_pixels
        height, width = content.frames[0].shape[:2]
        size = size_for(height, width, factor, low, high)
        video = np.stack([resized(frame, size) for frame in content.frames])
        if self.form is OMNI:
            video = _again(video, size_for(*size, factor, *OMNI_PIXELS))
        return cut(video, self.patching)


def _again(video: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize as the reference's processor does: by torch, on uint8, with antialiasing."""
    if video.shape[1:3] == size:
        return video
    planes = torch.from_numpy(video).permute(0, 3, 1, 2)
    resize: Callable[..., torch.Tensor] = torch.nn.functional.interpolate
    larger = resize(planes, size=size, mode="bicubic", antialias=True)
    return np.ascontiguousarray(larger.permute(0, 2, 3, 1).numpy())
