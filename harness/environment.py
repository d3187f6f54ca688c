"""Where a run happens: versions, machine, memory."""

from __future__ import annotations

import hashlib
import platform
import resource
import sys
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import harness
from harness.results.schema import Environment
from harness.workers import usable_cores

#: Packages whose version can change a number or a speed.
_RECORDED = (
    "accelerate", "av", "bitsandbytes", "bm25s", "ir-measures", "numba", "numpy", "peft", "pillow",
    "pyarrow", "pydantic", "PyStemmer", "pytrec-eval-terrier", "safetensors",
    "sentence-transformers", "soxr", "tokenizers", "torch", "transformers", "typer",
)  # fmt: skip


def environment() -> Environment:
    """Return the record of this machine and these packages."""
    wanted = {name.lower(): name for name in _RECORDED}
    packages = {}
    for distribution in distributions():
        name = (distribution.metadata["Name"] or "").lower()
        if name in wanted:
            packages[wanted[name]] = distribution.version
    return Environment(
        clamr_bench=harness.__version__,
        source_sha256=source_sha256(),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=usable_cores(),
        blas=_blas(),
        packages=dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    )


@cache
def source_sha256() -> str:
    """sha256 (hex) of clamr-bench's own source files.

    It names the code that ran, whatever folder the command was given in: a git hash of the
    current folder would name someone else's repository.
    """
    digest = hashlib.sha256()
    root = Path(harness.__file__).parent.parent
    for package in ("harness", "retrievers", "tasks"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _blas() -> str | None:
    """Return the BLAS that numpy uses, such as ``openblas 0.3.31 (SkylakeX)``; None if unknown.

    Its kernels change the last bits of a product, and its speed by a factor of 2.
    """
    import numpy as np  # noqa: F401  # its BLAS must be there to be found
    from threadpoolctl import threadpool_info

    for library in threadpool_info():
        if library["user_api"] == "blas":
            kind = library.get("architecture", "unknown")
            return f"{library['internal_api']} {library['version']} ({kind})"
    return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def reset_peak_memory() -> None:
    """Start measuring peak memory anew, where the system allows it (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # Elsewhere the peak is that of the whole process: an upper bound.


def peak_memory() -> int:
    """Return the peak resident memory in bytes since `reset_peak_memory`."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
