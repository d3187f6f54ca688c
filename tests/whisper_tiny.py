"""A Whisper of a few thousand weights, drawn at random, in the layout of the released ones.

Its window is one second, so that the sample's sounds are long to it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

LANGUAGES = ("en", "ru", "zh")


def save_whisper(folder: Path, *, seed: int = 0, english: bool = False) -> Path:
    """Write the model, its generation settings, feature extractor and tokeniser to `folder`."""
    languages = [] if english else [f"<|{code}|>" for code in LANGUAGES]
    tasks = [] if english else ["<|translate|>", "<|transcribe|>"]
    marks = ["<|endoftext|>", "<|startoftranscript|>", *languages, *tasks, "<|notimestamps|>"]
    times = [f"<|{step / 50:.2f}|>" for step in range(51)]
    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: number for number, token in enumerate([*words, *marks, *times])}
    tokenizer = WhisperTokenizer(vocab={word: ids[word] for word in words}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": marks[1:]})
    tokenizer.add_tokens(times)
    for token, number in ids.items():
        assert tokenizer.convert_tokens_to_ids(token) == number, token
    end, begin = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    config = WhisperConfig(
        vocab_size=len(ids), d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_mel_bins=8, max_source_positions=50, max_target_positions=24,
        pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=begin,
        init_std=0.5,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(config)
    settings = {"is_multilingual": not english}
    if not english:
        settings["lang_to_id"] = {mark: ids[mark] for mark in languages}
        settings["task_to_id"] = {mark.strip("<|>"): ids[mark] for mark in tasks}
    model.generation_config = GenerationConfig(
        decoder_start_token_id=begin, eos_token_id=end, pad_token_id=end, bos_token_id=end,
        max_length=20, no_timestamps_token_id=ids["<|notimestamps|>"],
        # A model at random would write marks; released ones leave them out in the same way.
        suppress_tokens=[ids[mark] for mark in marks[1:]], begin_suppress_tokens=[end], **settings,
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(folder)
    return folder
