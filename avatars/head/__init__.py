"""Parametric heads: the default one that ships with the package, and others that a user's file brings.

A format is a file beside this one that recognises its own arrays (`recognises`) and makes a `HeadModel` of them.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from avatars.errors import UserError
from avatars.files import read_arrays
from avatars.head.model import ARKIT, JOINTS, REGIONS, SKIN, HeadModel, Landmarks, ShapedHead
from avatars.head.storage import FORMAT, head_from_arrays, save_head

__all__ = ["ARKIT", "JOINTS", "REGIONS", "SKIN", "HeadModel", "Landmarks", "ShapedHead", "load_head", "save_head"]

DEFAULT = Path(__file__).with_name("default.npz")


def load_head(path: str | Path | None = None) -> HeadModel:
    """The default head (None), or one from a file: our own npz, ICT-FaceKit (folder or npz), FLAME 2020/2023 (npz).

    UserError when the file is absent, damaged, or of no known kind.
    """
    return _default() if path is None else _load(Path(path))


@lru_cache(maxsize=1)
def _default() -> HeadModel:
    return _load(DEFAULT)


def _load(path: Path) -> HeadModel:
    from avatars.head import flame, ict

    if path.is_dir():
        found = sorted(path.glob("*.npz"))
        if len(found) != 1:
            raise UserError(f"The head folder {path} holds {len(found)} npz files; give the path of the one to use.")
        path = found[0]
    if path.suffix.lower() in (".pkl", ".pickle"):
        raise UserError(flame.how_to_convert(path))
    arrays = read_arrays(path, "head", "Copy it again from its source.")
    if "format" in arrays and str(arrays["format"]) == FORMAT:
        return head_from_arrays(arrays, path)
    for kind in (ict, flame):
        if kind.recognises(arrays):
            return kind.head_from_arrays(arrays, path)
    raise UserError(
        f"The head {path} is of no known kind: it holds {', '.join(sorted(arrays))}. Known are this program's own heads "
        "(key 'format'), ICT-FaceKit ('identity_basis', 'part_names', …) and FLAME ('v_template', 'shapedirs', …)."
    )
