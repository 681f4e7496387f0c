"""FLAME 2020/2023 (licence-gated: the user brings the file) as a head, from an npz of its arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avatars.errors import UserError
from avatars.head.model import HeadModel


def recognises(arrays: dict[str, np.ndarray]) -> bool:
    """Whether these are the arrays of a FLAME npz."""
    return {"v_template", "shapedirs"} <= arrays.keys()


def how_to_convert(path: Path) -> str:
    """What to do with a pickled model."""
    return f"{path} is a pickle, which is never loaded here. Convert it to an npz of plain arrays first."


def head_from_arrays(arrays: dict[str, np.ndarray], path: Path) -> HeadModel:
    """The FLAME head."""
    raise UserError(f"{path}: FLAME heads cannot be read yet.")
