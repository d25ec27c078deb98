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

BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}
BYTES |= {"BOOL": 1, "I16": 2, "I32": 4, "I64": 8}
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
    """The tensors of one file. Raises UserError unless it is a complete safetensors file."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= size - 8:
            raise UserError(f"{path}: not a safetensors file, or cut short")
        try:
            header = json.loads(file.read(length))
        except ValueError:
            raise UserError(f"{path}: not a safetensors file") from None
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        if entry["dtype"] not in BYTES or end + 8 + length > size:
            raise UserError(f"{path}: cannot read tensor {name} ({entry['dtype']}), or cut short")
        tensors[name] = Tensor(path, entry["dtype"], tuple(entry["shape"]), 8 + length + begin)
    return tensors


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
