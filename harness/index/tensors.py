"""Safetensors files: written in one piece, read through a memory map."""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

#: Element types of the format that numpy has; bfloat16 comes as the uint16 of its bits.
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_LENGTH = 8  # bytes of the little-endian length of the JSON header


def tensor_bytes(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file."""
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    data: bytes = safetensors.numpy.save(plain, metadata=dict(metadata))
    return data


def map_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Open a safetensors file: its arrays, which stay on disk, and its metadata.

    The library copies what it reads into memory; pages of a map belong to the page cache.

    Returns
    -------
    dict, dict
        Read-only arrays by name, and the metadata.

    Raises
    ------
    ValueError
        If the file is no safetensors file, is cut short or has an element type that numpy lacks.
    OSError
        If it cannot be read.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        size = path.stat().st_size
        if size < _LENGTH or length > size - _LENGTH:
            raise ValueError("it is no safetensors file, or cut short")
        header = json.loads(file.read(length))
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    metadata = header.pop("__metadata__", {})
    arrays = {name: _array(mapped, _LENGTH + length, name, entry) for name, entry in header.items()}
    return arrays, metadata


def _array(mapped: mmap.mmap, base: int, name: str, entry: Mapping[str, Any]) -> NDArray[Any]:
    first, last = entry["data_offsets"]
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise ValueError(f"tensor {name!r} has element type {entry['dtype']}")
    shape = tuple(entry["shape"])
    count = int(np.prod(shape, dtype=np.int64))
    if last - first != count * np.dtype(dtype).itemsize or base + last > len(mapped):
        raise ValueError(f"tensor {name!r} is cut short")
    return np.frombuffer(mapped, dtype, count, base + first).reshape(shape)
