"""Which kernels numpy's OpenBLAS multiplies with."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

_VARIABLE = "OPENBLAS_CORETYPE"
#: What OpenBLAS's kernels for SkylakeX need.
_NEEDED = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


def choose_kernels() -> None:
    """Have OpenBLAS use its AVX-512 kernels on AMD processors that have AVX-512.

    It takes those for a Haswell and multiplies at half their speed (measured: 0.56 of the time,
    benchmarks/README.md). Both kernels are float32; last bits differ, as they do between machines.
    Call it before numpy is imported. A choice of the user's own stays; every result records which
    kernels were used.
    """
    if _VARIABLE not in os.environ and _is_amd_with_avx512():
        os.environ[_VARIABLE] = "SkylakeX"


def _is_amd_with_avx512() -> bool:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    vendor = next((line for line in lines if line.startswith("vendor_id")), "")
    flags = next((line for line in lines if line.startswith("flags")), "")
    return "AuthenticAMD" in vendor and set(flags.split()) >= _NEEDED


def kernels() -> str | None:
    """Return the BLAS that numpy uses, such as ``openblas 0.3.31 (SkylakeX)``; None if unknown."""
    import numpy as np  # noqa: F401  # its BLAS must be there to be found
    from threadpoolctl import threadpool_info

    for library in threadpool_info():
        if library["user_api"] == "blas":
            kind = library.get("architecture", "unknown")
            return f"{library['internal_api']} {library['version']} ({kind})"
    return None
