"""What this machine has for clamr-bench, and what it lacks: ``clamr-bench doctor``."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import harness
from harness.dataset.manifest import MANIFEST_NAME
from harness.errors import ClamrBenchError, StorageError
from harness.files import writable_folder
from harness.workspace import cache_folder, data_folder, results_folder

#: ``lacking`` takes away a feature; ``broken`` keeps the main commands from working.
State = Literal["ok", "lacking", "broken"]

#: By what they are for; the first group is what nothing works without.
PACKAGES = {
    "core": ("numpy", "pyarrow", "av", "ir-measures", "pytrec-eval-terrier", "bm25s"),
    "models": ("torch", "transformers", "peft", "accelerate", "sentence-transformers"),
    "train": ("bitsandbytes",),
    "report": ("jinja2",),
    "scale": ("ray",),
}
_HUB = "https://huggingface.co"
_SECONDS = 3
#: Free space below which a run's embeddings may not fit: 1 GB.
_SPACE = 10**9


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: State
    detail: str


def diagnose(*, online: bool = True) -> Iterator[Finding]:
    """Yield what there is, in the order in which one would ask.

    Parameters
    ----------
    online
        Whether to try the model hub.
    """
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding(
        "Python",
        "ok" if fits else "broken",
        f"{platform.python_version()} on {platform.system()} {platform.machine()}"
        + ("" if fits else "; clamr-bench needs 3.11 to 3.13"),
    )
    yield Finding("clamr-bench", "ok", f"{harness.__version__} in {Path(harness.__file__).parent}")
    for extra, names in PACKAGES.items():
        yield _packages(extra, names)
    yield from _torch()
    yield from _folders()
    yield _datasets()
    yield _hub(online)


def _packages(extra: str, names: tuple[str, ...]) -> Finding:
    there, missing = [], []
    for name in names:
        try:
            there.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if not missing:
        return Finding(f"packages: {extra}", "ok", ", ".join(there))
    wanted = "clamr-bench" if extra == "core" else f"'clamr-bench[{extra}]'"
    return Finding(
        f"packages: {extra}",
        "broken" if extra == "core" else "lacking",
        f"without {', '.join(missing)}: pip install {wanted}",
    )


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("torch", "lacking", f"cannot be used ({error}): neural retrievers need it")
        return
    threads = torch.get_num_threads()
    if not torch.cuda.is_available():
        yield Finding("GPU", "lacking", f"none; torch {torch.__version__}, {threads} CPU threads")
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        yield Finding(
            f"GPU {number}",
            "ok",
            f"{card.name}, {card.total_memory / 2**30:.0f} GiB, compute capability "
            f"{card.major}.{card.minor}, CUDA {torch.version.cuda}",
        )
    half = not torch.cuda.is_available() or torch.cuda.is_bf16_supported()
    yield Finding("bfloat16", "ok" if half else "lacking", "can be computed" if half else "no")
    yield _four_bits()


def _four_bits() -> Finding:
    """Quantise a small layer: bitsandbytes may be there and lack what this machine needs."""
    import logging

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import torch
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        device = "cuda" if torch.cuda.is_available() else "cpu"
        there = torch.linspace(-1, 1, 256, device=device).reshape(4, 64)
        packed, state = quantize_4bit(there, quant_type="nf4")
        back = dequantize_4bit(packed, state)
    except ImportError:
        return Finding("4 bits", "lacking", "bitsandbytes: pip install 'clamr-bench[train]'")
    except Exception as error:  # noqa: BLE001 - whatever a broken build raises is the finding
        return Finding("4 bits", "lacking", f"bitsandbytes fails here: {error}")
    worst = float((back - there).abs().max())
    return Finding("4 bits", "ok", f"quantised on {device} (largest error {worst:.2f} of 1)")


def _folders() -> Iterator[Finding]:
    for what, folder in (
        ("data folder", data_folder()),
        ("cache folder", cache_folder()),
        ("results folder", results_folder()),
    ):
        near = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        try:
            if folder.exists():
                writable_folder(folder, what)
            elif not os.access(near, os.W_OK):
                raise StorageError(f"{folder} cannot be made")
            free = shutil.disk_usage(near).free
        except (ClamrBenchError, OSError) as error:
            yield Finding(what, "broken", str(error))
            continue
        detail = f"{folder}, {free / 1e9:.1f} GB free"
        yield Finding(what, "ok" if free > _SPACE else "lacking", detail)


def _datasets() -> Finding:
    folder = data_folder()
    # A store is a folder of its own below that of its task's family.
    found = (path.parent for path in folder.glob(f"*/*/{MANIFEST_NAME}"))
    stores = sorted(store for store in found if not store.name.startswith("."))
    if not stores:
        remedy = "`clamr-bench data prepare TASK --source DIR`; multivent/sample needs nothing"
        return Finding("datasets", "lacking", f"none in {folder}: {remedy}")
    names = ", ".join(str(store.relative_to(folder)) for store in stores)
    return Finding("datasets", "ok", names)


def _hub(online: bool) -> Finding:
    if not online or os.environ.get("HF_HUB_OFFLINE", "0").upper() in {"1", "TRUE", "YES", "ON"}:
        return Finding("model hub", "lacking", "offline, as asked: only what is on disk is used")
    address = os.environ.get("HF_ENDPOINT", _HUB)
    try:
        with urllib.request.urlopen(address, timeout=_SECONDS):  # noqa: S310 - https, or as set
            pass
    except urllib.error.HTTPError:
        pass  # It answered.
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Finding("model hub", "lacking", f"{address} does not answer ({reason})")
    return Finding("model hub", "ok", f"{address} answers")
