"""Safetensors files as they lie on disk: headers, and tensors as memory-mapped bytes.

Rewriting a layout only moves rows, so a tensor's bytes are all that is needed. So this module reads
bfloat16, which numpy lacks, without torch, and never holds more than one tensor in memory.
Needs numpy. Format: https://huggingface.co/docs/safetensors
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from sftflow.core.cli import UserError

BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}
FLOATS = frozenset(BYTES)
BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "BOOL": 1, "I8": 1, "U8": 1}
BYTES |= {"I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8}
LONGEST_HEADER = 100_000_000  # bytes; the safetensors library takes no longer one
TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies: elements of `dtype`, row by row, at `offset` (bytes) of `path`."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def read(self) -> np.ndarray:
        """The tensor as unsigned integers of its element size; mapped, not loaded."""
        kind = np.dtype(f"u{BYTES[self.dtype]}")
        if not prod(self.shape):
            return np.empty(self.shape, kind)
        return np.memmap(self.path, kind, mode="r", offset=self.offset, shape=self.shape)


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, by name.

    Raises UserError unless it is a complete safetensors file: what the header lists fills the rest
    of the file, without holes or overlaps, and every tensor has the bytes that its shape needs.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 0 < length <= min(size - 8, LONGEST_HEADER):
            raise UserError(f"{path.name}: not a safetensors file, or cut short ({size:,} bytes)")
        try:
            header = json.loads(file.read(length), object_pairs_hook=unique)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path.name}: not a safetensors file: its header: {error}") from None
    if not isinstance(header, dict):
        raise UserError(f"{path.name}: not a safetensors file: its header is no JSON object")
    header.pop("__metadata__", None)
    try:
        spans = {name: span(entry) for name, entry in header.items()}
    except ValueError as error:
        raise UserError(f"{path.name}: cannot read its header: {error}") from None
    reached = 0
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != reached:
            what = "overlaps the one before it" if begin < reached else "begins after a hole"
            raise UserError(f"{path.name}: damaged: tensor {name} {what} (byte {begin:,})")
        reached = end
    if reached + 8 + length != size:
        found = "cut short" if reached + 8 + length > size else "longer than its header says"
        raise UserError(f"{path.name}: {found}: {size:,} bytes, not {reached + 8 + length:,}")
    return {
        name: Tensor(path, entry["dtype"], tuple(entry["shape"]), 8 + length + spans[name][0])
        for name, entry in header.items()
    }


def unique(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object; ValueError when it states a key twice, of which readers take either."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is stated twice")
    return found


def span(entry: object) -> tuple[int, int]:
    """Where a header's entry says that its tensor lies: [begin, end) in bytes. Or ValueError."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
            if dtype not in BYTES:
                raise ValueError(f"dtype {dtype} is not known")
            if not all(type(count) is int and count >= 0 for count in shape) or begin < 0:
                raise ValueError(f"negative or fractional numbers in {json.dumps(entry)}")
            if end - begin != (needed := prod(shape) * BYTES[dtype]):
                raise ValueError(f"{dtype} {shape} needs {needed:,} bytes, not {end - begin:,}")
            return begin, end
    raise ValueError(f"no tensor: {str(entry)[:100]}")


@dataclass(frozen=True)
class Output:
    """A tensor to write: its bytes are made by `rows` only when its turn has come."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    rows: Callable[[], np.ndarray]


def write_file(path: Path, outputs: Iterable[Output]) -> str:
    """Write one safetensors file, tensor by tensor; give its sha256 (hex)."""
    outputs = list(outputs)
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for output in outputs:
        end = offset + prod(output.shape) * BYTES[output.dtype]
        header[output.name] = {
            "dtype": output.dtype,
            "shape": list(output.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    sha = hashlib.sha256()
    with open(path, "wb") as file:

        def put(data) -> None:
            sha.update(data)
            file.write(data)

        put(len(text).to_bytes(8, "little") + text)
        for output in outputs:
            put(np.ascontiguousarray(output.rows()).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
    return sha.hexdigest()
