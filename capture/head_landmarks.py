"""Give any head MediaPipe's 478 landmarks and the usual 68, by showing pictures of it to the detector.

    python -m capture.head_landmarks HEAD [OUT]

HEAD is anything that `load_head` reads (our npz, ICT-FaceKit, FLAME); OUT an npz in our format, HEAD itself by default.
Takes about a minute.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from avatars.errors import UserError
from avatars.head import HeadModel, load_head, save_head
from avatars.head.landmarks import find_correspondences, subset, with_landmarks
from avatars.progress import Progress, TerminalProgress, silent
from capture.landmarks import IBUG68, detect_landmarks


def add_landmarks(head: HeadModel, people: int = 5, progress: Progress = silent) -> HeadModel:
    """The head with "mediapipe" landmarks, and with "ibug68" taken from them where it has none of its own."""

    def detect(pictures: Iterable[np.ndarray]) -> np.ndarray:
        return detect_landmarks(pictures, passes=1).points

    points = find_correspondences(head, detect, people, progress=progress)
    head = with_landmarks(head, mediapipe=points)
    return head if "ibug68" in head.landmarks and head.name != "default" else with_landmarks(head, ibug68=subset(points, IBUG68))


def main(arguments: list[str]) -> int:
    """Command line: the head, and optionally where to write it."""
    if len(arguments) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 2
    path, out = Path(arguments[0]), Path(arguments[-1])
    try:
        if out.suffix != ".npz":
            raise UserError(f"{out} is no npz file: name the file to write, python -m capture.head_landmarks {path} OUT.npz")
        head = add_landmarks(load_head(path), progress=TerminalProgress())
        save_head(head, out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for kind, points in head.landmarks.items():
        print(f"{out}: {kind} {int(points.valid.sum())} of {len(points)} points", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
