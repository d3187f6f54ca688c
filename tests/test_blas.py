"""The choice of BLAS kernels: only where it helps, never over the user's own, always recorded."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest

from harness.blas import choose_kernels, kernels

AVX512 = "flags\t\t: fpu avx2 avx512f avx512bw avx512cd avx512dq avx512vl\n"


def cpuinfo(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    real = Path.read_text

    def read(self: Path, *arguments: object, **named: object) -> str:
        return text if str(self) == "/proc/cpuinfo" else real(self, *arguments, **named)

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("vendor_id\t: AuthenticAMD\n" + AVX512, "SkylakeX"),
        ("vendor_id\t: GenuineIntel\n" + AVX512, None),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2\n", None),
        ("", None),
    ],
)
def test_only_amd_with_avx512_is_told(
    monkeypatch: pytest.MonkeyPatch, text: str, chosen: str | None
) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "x")  # so that it is put back afterwards
    monkeypatch.delenv("OPENBLAS_CORETYPE")
    cpuinfo(monkeypatch, text)
    choose_kernels()
    assert os.environ.get("OPENBLAS_CORETYPE") == chosen


def test_a_choice_of_the_users_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    cpuinfo(monkeypatch, "vendor_id\t: AuthenticAMD\n" + AVX512)
    choose_kernels()
    assert os.environ["OPENBLAS_CORETYPE"] == "Haswell"


def test_the_kernels_in_use_are_named() -> None:
    found = kernels()
    assert found is None or "(" in found
