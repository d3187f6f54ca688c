"""How the numbers of token vectors are kept, and how they become float32 again."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import PluginError

#: bfloat16 bits whose value is infinite or NaN.
_BF16_EXPONENT = np.uint16(0x7F80)


class Precision(StrEnum):
    """Number format of stored token vectors."""

    FP32 = "fp32"
    FP16 = "fp16"
    #: bfloat16, kept as its bits in uint16: numpy has no such type.
    BF16 = "bf16"
    #: int8 with one float32 scale a token: the vector is ``int8 * scale``.
    INT8 = "int8"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type of the stored array."""
        return _DTYPES[self]

    @classmethod
    def of(cls, dtype: np.dtype[Any]) -> Precision | None:
        """Return the precision whose array has this type, or None."""
        return next((each for each in cls if each.dtype == dtype), None)


_DTYPES: dict[Precision, np.dtype[Any]] = {
    Precision.FP32: np.dtype(np.float32),
    Precision.FP16: np.dtype(np.float16),
    Precision.BF16: np.dtype(np.uint16),
    Precision.INT8: np.dtype(np.int8),
}


def finite_rows(vectors: NDArray[Any], precision: Precision) -> NDArray[np.bool_]:
    """Return for each row whether all its values are finite: bool, shape ``(n,)``."""
    if precision is Precision.INT8:
        return np.ones(len(vectors), bool)
    if precision is Precision.BF16:
        finite: NDArray[np.bool_] = (vectors & _BF16_EXPONENT) != _BF16_EXPONENT
    else:
        finite = np.isfinite(vectors)
    return np.asarray(finite.all(axis=1))


def widen_into(
    out: NDArray[np.float32],
    vectors: NDArray[Any],
    scales: NDArray[np.float32] | None,
    precision: Precision,
) -> None:
    """Write stored vectors to `out` as float32, exactly (int8 times its scale, rounded once).

    Parameters
    ----------
    out
        float32, shape ``(n, dim)``, contiguous.
    vectors
        Shape ``(n, dim)``, of the type of `precision`.
    scales
        float32, shape ``(n,)`` for int8, else None.
    precision
        Format of `vectors`.
    """
    if precision is Precision.FP32:
        np.copyto(out, vectors)
    elif precision is Precision.BF16:
        bits = out.view(np.uint32)
        np.copyto(bits, vectors)
        np.left_shift(bits, 16, out=bits)
    elif precision is Precision.FP16:
        # numpy converts halves one by one, at 3 to 20 % of the time of the product that follows.
        # In whole registers: sign-extended and shifted, the bits are a float32 that is 2**112 too
        # small, subnormal halves among them; the multiplication is exact.
        bits = out.view(np.int32)
        np.copyto(bits, vectors.view(np.int16))
        np.left_shift(bits, 13, out=bits)
        np.bitwise_and(bits, np.int32(-0x70002000), out=bits)
        np.multiply(out, np.float32(2.0**112), out=out)
    elif scales is not None:
        np.multiply(vectors, scales[:, None], out=out)


def narrow(
    vectors: NDArray[np.float32], precision: Precision
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Return finite float32 vectors, shape ``(n, dim)``, in another precision, with int8's scales.

    Halves are rounded to nearest, ties to even. An int8 vector is scaled by its largest absolute
    value over 127, so it spans the whole range without clipping.

    Raises
    ------
    PluginError
        If a value is too large for a half precision.
    """
    if precision is Precision.FP32:
        return vectors, None
    if precision is Precision.INT8:
        scales = np.abs(vectors).max(axis=1, initial=0.0) / np.float32(127)
        # A scale that underflows to 0 leaves a vector of zeros, which is what it stands for.
        safe = np.where(scales > 0, scales, np.float32(1))
        rounded = np.rint(vectors / safe[:, None])
        return np.clip(rounded, -127, 127).astype(np.int8), scales
    if precision is Precision.FP16:
        with np.errstate(over="ignore"):
            stored: NDArray[Any] = vectors.astype(np.float16)
    else:
        bits = np.ascontiguousarray(vectors).view(np.uint32)
        last = (bits >> np.uint32(16)) & np.uint32(1)
        stored = ((bits + last + np.uint32(0x7FFF)) >> np.uint32(16)).astype(np.uint16)
    finite = finite_rows(stored, precision)
    if not finite.all():
        token = int(np.argmin(finite))
        raise PluginError(
            f"vector {token} has a value of {np.abs(vectors[token]).max():.3g}, too large for "
            f"{precision}: keep it as fp32, or normalise the vectors."
        )
    return stored, None
