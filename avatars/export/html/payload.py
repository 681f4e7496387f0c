"""The numbers of a page: arrays of known precision, as few bytes as they need, in one compressed block.

Each array is rounded to whole multiples of a step that is too small to be seen, its signs are folded into the lowest bit
(0, -1, 1, -2 … → 0, 1, 2, 3 …), and its bytes are stored by significance: first the lowest byte of all numbers, then the next. The upper bytes
are nearly constant then, and deflate takes them away. Floats whose exact bits matter go the same way without rounding.
`page/payload.js` reads it; the zlib checksum tells a damaged file.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np


class Payload:
    """Collects arrays by name; `fields` describes them and `compressed` holds them."""

    def __init__(self) -> None:
        self.fields: list[dict[str, Any]] = []
        self._parts: list[bytes] = []

    def steps(self, name: str, values: np.ndarray, step: float, differences: bool = False) -> None:
        """`values`, any shape, as multiples of `step`; `differences` along the first axis where neighbours are alike."""
        whole = np.rint(np.asarray(values, np.float64) / step)
        if not np.isfinite(whole).all() or np.abs(whole).max(initial=0) >= 2**30:
            raise ValueError(f"{name}: values must be finite and below {2**30 * step:g}, got up to {np.abs(values).max(initial=0)}")
        whole = whole.astype(np.int64)
        if differences:
            whole = np.diff(whole, axis=0, prepend=np.zeros_like(whole[:1]))
        folded = np.where(whole < 0, -2 * whole - 1, 2 * whole).astype("<u4")
        size = max((int(folded.max(initial=0)).bit_length() + 7) // 8, 1)
        self._add({"name": name, "shape": list(folded.shape), "bytes": size, "step": step, "differences": differences}, folded, size)

    def floats(self, name: str, values: np.ndarray) -> None:
        """`values`, any shape, as exact float32."""
        bits = np.ascontiguousarray(values, "<f4")
        self._add({"name": name, "shape": list(bits.shape), "bytes": 4, "step": 0}, bits.view("<u4"), 4)

    def bytes(self, name: str, content: bytes) -> None:
        """A file as it is."""
        self._add({"name": name, "shape": [len(content)], "bytes": 1, "step": -1}, np.frombuffer(content, np.uint8), 1)

    def compressed(self) -> bytes:
        """Everything, in the order of `fields`."""
        # Matches of three bytes are chance in such numbers: without them the file is a twentieth smaller.
        packer = zlib.compressobj(9, strategy=zlib.Z_FILTERED)
        return packer.compress(b"".join(self._parts)) + packer.flush()

    def _add(self, field: dict[str, Any], numbers: np.ndarray, size: int) -> None:
        self.fields.append(field)
        significance = np.ascontiguousarray(numbers).reshape(-1, 1).view(np.uint8)[:, :size]
        self._parts.append(np.ascontiguousarray(significance.T).tobytes())
