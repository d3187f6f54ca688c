"""Steps of the paper's QLoRA recipe on the 3B architecture with drawn weights: speed and memory.

    python benchmarks/gpu.py train [--size 3b|tiny] [--steps 12] [--set recipe.X=Y ...] [--save]

The whole command `clamr-bench train` runs on the generated sample: decoding, 4-bit base, LoRA,
paged 8-bit optimiser. Drawn weights take the time and memory of trained ones; what is learned means
nothing. The first steps, which compile and fill caches, are left out. Not run on a GPU yet; with
``--size tiny`` it runs on a processor.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from copy import deepcopy
from pathlib import Path

import torch
from transformers import AutoConfig

from harness.cli.main import main as clamr_bench
from harness.environment import environment
from harness.registry import make_retriever
from retrievers.qwen.backbone import CLASSES, DIM, LateInteraction
from retrievers.qwen.form import VL
from retrievers.qwen.published import VL_3B
from retrievers.qwen.saving import save_checkpoint
from retrievers.qwen.tiny import FOLDER, tiny_config

#: Steps left out of the figures.
WARM = 2


def write_base(size: str, folder: Path) -> None:
    """Write a checkpoint of drawn weights."""
    if size == "tiny":
        encoder = make_retriever("clamr/tiny", {"initial_seed": 0}).encoder  # type: ignore[attr-defined]
        folder.mkdir()
        encoder.save(folder)
        return
    ids = tiny_config(VL)
    config = AutoConfig.for_model(**deepcopy(VL_3B))
    for name in ("video_token_id", "vision_start_token_id", "vision_end_token_id"):
        setattr(config, name, getattr(ids, name))  # of the small tokeniser
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LateInteraction(VL, CLASSES[VL.name](config), DIM)
    torch.set_default_dtype(before)
    save_checkpoint(model, folder, torch.bfloat16, tokenizer=FOLDER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("3b", "tiny"), default="3b")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--set", action="append", default=[], metavar="NAME.KEY=VALUE")
    parser.add_argument("--save", action="store_true", help="write gpu_train.json beside this")
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    with tempfile.TemporaryDirectory(prefix="clamr-bench-") as name:
        folder = Path(name)
        for place in ("DATA", "CACHE", "RESULTS"):
            os.environ[f"CLAMR_BENCH_{place}"] = str(folder / place.lower())
        write_base(arguments.size, folder / "base")
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        changes = [
            f"recipe.phases=[{{steps: {arguments.steps}}}]", "recipe.validation.share=0",
            "multivent/sample.test_videos=20", "multivent/sample.train_videos=100", *arguments.set,
        ]  # fmt: skip
        status = clamr_bench([
            "train", "--task", "multivent/sample", "--retriever", f"clamr/{folder / 'base'}",
            "--recipe", "a100-qlora", "--to", str(folder / "trained"),
            *(word for change in changes for word in ("--set", change)),
        ])  # fmt: skip
        if status:
            raise SystemExit(status)
        (log,) = folder.rglob("log.jsonl")
        rows = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [row for row in rows if "seconds" in row][WARM:]
    figures = {
        "size": arguments.size,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "changes": arguments.set,
        "steps": len(steps),
        "seconds_per_step": statistics.median(row["seconds"] for row in steps),
        "samples_per_second": statistics.median(row["samples_per_second"] for row in steps),
        "peak_device_bytes": torch.cuda.max_memory_allocated() if cuda else None,
    }
    print(json.dumps(figures, indent=1))
    if arguments.save:
        path = Path(__file__).with_suffix(".json")
        written = {**figures, "environment": environment().model_dump(mode="json")}
        path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
