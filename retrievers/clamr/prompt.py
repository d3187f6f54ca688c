"""Documents and queries to token sequences, with the exact modality and source of every token.

A document is one chat turn: the system prompt, then frames, sound and texts, each behind its name.
Every piece is tokenised by itself, so that no token straddles two modalities, and a modality that
a document lacks leaves nothing behind. `retrievers.clamr.compat` has the reference's own stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from harness.types import Modality
from retrievers.clamr.settings import ClamrSettings
from retrievers.qwen.audio import sound_tokens, token_seconds
from retrievers.qwen.form import OMNI, TEXTS, Form, Marks
from retrievers.qwen.prompt import MelFeatures, Prompt
from retrievers.qwen.sequence import Content, Tokens, TokensBuilder
from retrievers.qwen.tokens import Vocabulary
from retrievers.qwen.vision import Patching, patches_of

#: What stands before the content of a modality.
PREFIXES = {
    Modality.VIDEO: "Video: ",
    Modality.AUDIO: "Audio: ",
    Modality.OCR: "OCR: ",
    Modality.ASR: "ASR: ",
    Modality.DESCRIPTION: "Description: ",
}


class ClamrPrompt(Prompt):
    """Makes CLaMR's sequences.

    Parameters
    ----------
    form, vocabulary, patching, mel, losses
        As for `retrievers.qwen.prompt.Prompt`.
    settings
        Lengths, prompts, pixels.
    """

    def __init__(
        self,
        form: Form,
        vocabulary: Vocabulary,
        settings: ClamrSettings,
        patching: Patching,
        mel: MelFeatures | None,
        losses: Counter[str],
    ) -> None:
        super().__init__(form, vocabulary, patching, mel, losses)
        self.settings = settings
        #: The Omni form's media have names ("Video: "), the VL form's have none.
        self.names_media = form is OMNI
        system = form.system if settings.system_prompt is None else settings.system_prompt
        self.header = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"
        self._header = [
            *vocabulary.encode_marked("<|im_start|>system\n"),
            *vocabulary.encode(system)[0],
            *vocabulary.encode_marked("<|im_end|>\n<|im_start|>user\n"),
        ]
        self._footer = vocabulary.encode_marked("<|im_end|>\n")
        marks = [form.video, *([form.audio] if form.audio else [])]
        self._marks = {
            mark: vocabulary.id(mark)
            for each in marks
            for mark in (each.begin, each.place, each.end)
        }

    def query(self, text: str) -> Tokens:
        """Return ``Query: <text>`` and the augmentation tokens, which are never cut away."""
        settings = self.settings
        prefix = self.vocabulary.encode(settings.query_prefix.rstrip(" "))[0]
        room = settings.query_length - settings.query_augmentation - len(prefix)
        space = " " if settings.query_prefix.endswith(" ") else ""
        ids, offsets = self.vocabulary.encode(space + text)
        built = TokensBuilder()
        built.add(prefix, Modality.TEXT)
        built.add_text(ids[:room], Modality.TEXT, _shifted(offsets[:room], len(space), len(text)))
        built.add([self.pad] * settings.query_augmentation, Modality.TEXT)
        return built.build()

    def document(self, content: Content) -> list[Tokens]:
        """Return the document's sequences.

        One of all modalities; with ``contextualise: false`` one for each; none for a document
        without anything that the form reads.
        """
        media = [self._video, self._sound]
        parts = [part for make in media if (part := make(content))]
        texts = [
            self._text(modality, content.texts[modality])
            for modality in TEXTS
            if modality in content.texts
        ]
        if not parts and not texts:
            return []
        if self.settings.contextualise:
            return [self._framed([*parts, *texts])]
        # As the reference encodes them apart: media inside the chat turn, texts bare.
        return [*(self._framed([part]) for part in parts), *(_joined([text]) for text in texts)]

    def _framed(self, parts: list[Callable[[TokensBuilder], None]]) -> Tokens:
        def header(built: TokensBuilder) -> None:
            built.add(self._header)

        def footer(built: TokensBuilder) -> None:
            built.add(self._footer)

        return _joined([header, *parts, footer])

    def _video(self, content: Content) -> Callable[[TokensBuilder], None] | None:
        if not len(content.frames):
            return None
        settings = self.settings
        patches = patches_of(
            content.frames, self.patching, settings.min_pixels, settings.max_pixels
        )
        place = self._marks[self.form.video.place]
        return self._media(
            Modality.VIDEO,
            self.form.video,
            lambda built: built.add_video(place, patches, content.seconds),
        )

    def _sound(self, content: Content) -> Callable[[TokensBuilder], None] | None:
        marks = self.form.audio
        if content.sound is None or marks is None or self._mel is None:
            return None
        mel = self._mel(content.sound)
        if not sound_tokens(mel.shape[1]):
            return None
        place, ranges = self._marks[marks.place], token_seconds(mel.shape[1])
        return self._media(Modality.AUDIO, marks, lambda built: built.add_sound(place, mel, ranges))

    def _media(
        self, modality: Modality, marks: Marks, places: Callable[[TokensBuilder], None]
    ) -> Callable[[TokensBuilder], None]:
        def part(built: TokensBuilder) -> None:
            if self.names_media:
                built.add(self.vocabulary.encode(PREFIXES[modality])[0], modality)
            built.add([self._marks[marks.begin]], modality)
            places(built)
            # It has seen the whole of the modality and no part of it: no source, no modality.
            built.add([self._marks[marks.end]])

        return part

    def _text(self, modality: Modality, text: str) -> Callable[[TokensBuilder], None]:
        name = f" {PREFIXES[modality]}".removesuffix(" ")
        prefix = self.vocabulary.encode(name)[0]
        ids, offsets = self.vocabulary.encode(f" {text}")
        room = self.settings.length_of(modality) - len(prefix)
        if len(ids) > room:
            self.losses[f"{modality.label} cut"] += 1

        def part(built: TokensBuilder) -> None:
            built.add(prefix, modality)
            built.add_text(ids[:room], modality, _shifted(offsets[:room], 1, len(text)))

        return part


def _joined(parts: list[Callable[[TokensBuilder], None]]) -> Tokens:
    built = TokensBuilder()
    for part in parts:
        part(built)
    return built.build()


def _shifted(offsets: list[tuple[int, int]], by: int, length: int) -> list[tuple[int, int]]:
    """Return ranges of characters as seen without the `by` characters put before the text."""
    return [(min(max(0, a - by), length), min(max(0, b - by), length)) for a, b in offsets]
