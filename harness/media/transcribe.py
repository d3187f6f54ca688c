"""Speech -> text, by Whisper.

Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, arXiv:2212.04356. Sound
up to 30 s, the window of the model, is one window. Longer sound is read window by window, each
beginning where the last whole segment of the one before ended, as timestamps that the model writes
say (section 4.5 of the paper; transformers' long-form generation). Decoding is greedy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from harness.device import check_device
from harness.errors import PluginError, UsageError, did_you_mean
from harness.hub import HUB_ID, snapshot
from harness.media.values import Waveform
from harness.quiet import quiet
from harness.workspace import digest

#: Raised when the same model would make other texts of the same sound.
VERSION = 1

#: Samples a second that every Whisper hears.
RATE = 16_000

SpeechTask = Literal["transcribe", "translate"]

_CONFIG, _GENERATION = "config.json", "generation_config.json"
_FETCHED = ("*.json", "*.txt", "*.safetensors")


class Whisper:
    """A Whisper checkpoint; its weights are loaded at the first sound.

    Parameters
    ----------
    name
        An existing folder, else a hub id.
    revision
        Branch, tag or commit of a hub id.
    language
        Code or English name of the language that is spoken; None detects it for each sound.
    task
        ``translate`` writes English, whatever is spoken.
    device
        ``cpu``, ``cuda``, ``cuda:1``; ``auto`` is a GPU if there is one.
    batch_size
        Sounds at once; None for 16 on a GPU and 4 elsewhere.

    Attributes
    ----------
    version
        What determines the texts, in a line: model, revision (the commit, or the beginning of a
        hash of a folder's files), task, language, precision.

    Raises
    ------
    UsageError
        If there is no such model, device or language, or the model knows English alone.
    PluginError
        If it cannot be fetched, is no Whisper, or lacks files.
    """

    def __init__(
        self,
        name: str,
        *,
        revision: str | None = None,
        language: str | None = None,
        task: SpeechTask = "transcribe",
        device: str = "auto",
        batch_size: int | None = None,
    ) -> None:
        self._name = name
        self._folder, known = _located(name, revision)
        kind = _json(self._folder / _CONFIG, name).get("model_type")
        if kind != "whisper":
            raise PluginError(
                f"--asr {name} is no Whisper: its {_CONFIG} says model_type = {kind!r}. Give a "
                "checkpoint such as openai/whisper-large-v3, or a folder that holds one."
            )
        self._asked = _asked(name, _json(self._folder / _GENERATION, name), language, task)
        self._device, half = _device(device)
        self._dtype = "float16" if half else "float32"
        self.batch_size = batch_size or (16 if half else 4)
        spoken = self._asked.get("language", "detected" if "task" in self._asked else "English")
        self.version = f"{known}, {task}, language {spoken}, {self._dtype}"

    def transcribe(self, sounds: Sequence[Waveform]) -> list[str]:
        """Return what is said in each sound; ``""`` where the model writes no word.

        Parameters
        ----------
        sounds
            At `RATE` samples a second.

        Raises
        ------
        PluginError
            If the weights do not fit the model, or a batch does not fit into memory.
        """
        texts = [""] * len(sounds)
        hears = self._processor.feature_extractor
        lengths = [len(sound.samples) // hears.hop_length for sound in sounds]
        # Apart, so that a text does not depend on whether there are longer sounds beside it.
        for long in (False, True):
            chosen = [
                n for n, length in enumerate(lengths) if (length > hears.nb_max_frames) == long
            ]
            for start in range(0, len(chosen), self.batch_size):
                batch = chosen[start : start + self.batch_size]
                made = self._heard([sounds[n] for n in batch], long=long)
                for number, text in zip(batch, made, strict=True):
                    texts[number] = text
        return texts

    def _heard(self, sounds: Sequence[Waveform], *, long: bool) -> list[str]:
        import torch

        inputs = self._processor.feature_extractor(
            [sound.samples for sound in sounds],
            sampling_rate=RATE,
            return_tensors="pt",
            padding="longest" if long else "max_length",
            truncation=not long,
            return_attention_mask=True,
        )
        model = self._model
        try:
            with torch.inference_mode(), quiet():
                tokens = model.generate(
                    inputs.input_features.to(model.device, model.dtype),
                    attention_mask=inputs.attention_mask.to(model.device),
                    return_timestamps=long,
                    **self._asked,
                )
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate" in str(error):
                raise PluginError(
                    f"{len(sounds)} sounds at once do not fit into the memory of {self._device}: "
                    "give the same command with a smaller --batch-size; what was written down is "
                    "kept."
                ) from error
            raise
        texts = self._processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    @cached_property
    def _processor(self) -> Any:
        from transformers import WhisperProcessor

        try:
            with quiet():
                found: Any = WhisperProcessor.from_pretrained(self._folder, local_files_only=True)
        # Files of wrong types raise errors of several libraries.
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise PluginError(
                f"--asr {self._name}: its feature extractor or tokeniser cannot be loaded "
                f"({reason}): fetch the whole checkpoint."
            ) from error
        if found.feature_extractor.sampling_rate != RATE:
            raise PluginError(
                f"--asr {self._name} hears {found.feature_extractor.sampling_rate} samples/s, "
                f"every Whisper {RATE}: fetch the checkpoint again."
            )
        return found

    @cached_property
    def _model(self) -> Any:
        """The model, with every tensor of the files in it and none at random."""
        import torch
        from transformers import WhisperForConditionalGeneration

        try:
            with quiet():
                model, told = WhisperForConditionalGeneration.from_pretrained(
                    self._folder,
                    dtype=getattr(torch, self._dtype),
                    use_safetensors=True,
                    local_files_only=True,
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                )
        # Missing files and broken ones raise errors of several libraries.
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise PluginError(
                f"--asr {self._name}: its weights cannot be loaded ({reason}): fetch the whole "
                "checkpoint, with its weights as safetensors."
            ) from error
        wrong = [
            *told["missing_keys"],
            *told["unexpected_keys"],
            *map(str, told["mismatched_keys"]),
        ]
        if wrong:
            raise PluginError(
                f"--asr {self._name}: {len(wrong)} tensors of its files and of the model that its "
                f"{_CONFIG} describes do not match (first: {min(wrong)}): fetch it again."
            )
        return model.to(self._device).eval()


def _located(name: str, revision: str | None) -> tuple[Path, str]:
    """Return the folder of a model, and its name with what tells its content."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UsageError(
                f"--revision {revision} is of a hub id, and {name} is a folder: leave it out."
            )
        files = [path for kind in _FETCHED for path in folder.glob(kind)]
        content = digest({path.name: _sha256(path) for path in files})
        return folder, f"{folder.resolve().name}@{content[:12]}"
    if not HUB_ID.match(name):
        raise UsageError(
            f"--asr {name}: there is no such folder, and it is no hub id (owner/name), such as "
            "openai/whisper-large-v3."
        )
    folder = snapshot(
        name,
        revision,
        _FETCHED,
        what="the files of --asr",
        remedy=f"Fetch them where there is a network (`hf download {name}`) and give the folder.",
    )
    return folder, f"{name}@{folder.name[:12]}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PluginError(
            f"--asr {name} has no {path.name}: give the whole folder of a Whisper checkpoint."
        ) from None
    except (OSError, ValueError) as error:
        raise PluginError(f"{path} cannot be read ({error}): fetch it again.") from None
    return found if isinstance(found, dict) else {}


def _asked(
    name: str, generation: dict[str, Any], language: str | None, task: SpeechTask
) -> dict[str, Any]:
    """Return what the model is asked for; a model of English alone is asked nothing."""
    if "no_timestamps_token_id" not in generation:
        raise PluginError(
            f"--asr {name}: its {_GENERATION} has no no_timestamps_token_id, which long sound "
            "needs: copy that file from the checkpoint that this one was made of."
        )
    known = generation.get("lang_to_id")
    if not known or not generation.get("is_multilingual", True):
        if language is not None or task != "transcribe":
            raise UsageError(
                f"--asr {name} knows English alone: leave out --language and --speech-task."
            )
        return {}
    asked: dict[str, Any] = {"task": task}
    if language is not None:
        from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

        code = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
        if f"<|{code}|>" not in known:
            codes = sorted(mark.strip("<|>") for mark in known)
            raise UsageError(
                f"--language {language}: this model knows {', '.join(codes)}, and their English "
                f"names.{did_you_mean(language, [*codes, *TO_LANGUAGE_CODE])}"
            )
        asked["language"] = code
    return asked


def _device(device: str) -> tuple[str, bool]:
    """Return the device, and whether it is a GPU."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = check_device(device, f"--device {device}").type
    return device, kind != "cpu"
