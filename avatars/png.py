"""PNG stills that remember how they were made: 8-bit RGB or RGBA, with the parameters as JSON in a text chunk.

Written here in thirty lines so that rendering needs no imaging package; any program opens them.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from avatars.errors import UserError
from avatars.files import atomic_path

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEY = b"avatars"


def write_png(path: str | os.PathLike, picture: np.ndarray, parameters: dict[str, Any] | None = None) -> None:
    """Write uint8 [H, W, 3] or [H, W, 4] atomically; `parameters` (JSON-able) travel inside."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"{path}: a still must end in .png. Write --out {path.with_suffix('.png')}.")
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_png(picture, parameters))


def encode_png(picture: np.ndarray, parameters: dict[str, Any] | None = None) -> bytes:
    """The bytes of a PNG of uint8 [H, W, 3 or 4]."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (3, 4):
        raise ValueError(f"a still must be uint8 [H, W, 3 or 4], got {picture.dtype} {picture.shape}")
    height, width, channels = picture.shape
    # Filter 2 (up) on every row: pictures are smooth, so differences to the row above compress well.
    rows = picture.reshape(height, -1)
    up = np.vstack([rows[:1], rows[1:] - rows[:-1]])
    lines = np.concatenate([np.full((height, 1), 2, np.uint8), up], 1)
    chunks = [_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 6, 0, 0, 0))]
    chunks.append(_chunk(b"sRGB", b"\0"))
    if parameters is not None:
        text = json.dumps(parameters, ensure_ascii=False).encode()
        chunks.append(_chunk(b"iTXt", _KEY + b"\0\0\0\0\0" + text))
    chunks += [_chunk(b"IDAT", zlib.compress(lines.tobytes(), 6)), _chunk(b"IEND", b"")]
    return _SIGNATURE + b"".join(chunks)


def read_png_parameters(path: str | os.PathLike) -> dict[str, Any]:
    """The parameters inside a still; UserError when it has none."""
    content = Path(path).read_bytes()
    at = len(_SIGNATURE)
    while content.startswith(_SIGNATURE) and at + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        body = content[at + 8 : at + 8 + length]
        if kind == b"iTXt" and body.startswith(_KEY + b"\0"):
            return json.loads(body[len(_KEY) + 5 :].decode())
        at += 12 + length
    raise UserError(f"{path} carries no parameters: it was not written by `avatars render`, or was edited.")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
