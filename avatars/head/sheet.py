"""A contact sheet of everything a head can do: each expression from the front and from the side, to be looked at.

    python -m avatars.head.sheet --out sheet.png [--head FILE] [--identity SEED] [--closeup mouth|eyes]

Expressions that only make sense on an open mouth (mouthClose, tongueOut) are shown on one. Magenta marks surfaces seen
from behind: a hole, or triangles that are turned inside out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from avatars.errors import UserError
from avatars.files import atomic_path
from avatars.head import load_head
from avatars.head.model import HeadModel, ShapedHead
from avatars.render.mesh import head_colors, render_mesh
from avatars.transforms import look_at
from avatars.types import Cameras, Identity, Mesh

ON_OPEN_MOUTH = {"mouthClose": 1.0, "tongueOut": 0.6}
"""How far the jaw is opened, at weight 1, under expressions that need it."""


@dataclass(frozen=True)
class Shot:
    """What a cell shows: the point looked at, in metres from the middle between the eyes, and the width of the picture there."""

    target: tuple[float, float, float]
    width: float
    views: tuple[tuple[float, float], ...] = ((0, 0), (45, 0))  # yaw, pitch


SHOTS = {
    "face": Shot((0.0, -0.035, 0.0), 0.27),
    "mouth": Shot((0.0, -0.065, 0.02), 0.11, ((0, 0), (45, 0))),
    "eyes": Shot((0.0, 0.0, 0.0), 0.12, ((0, 0), (35, 12))),
}


def portrait(head: HeadModel, shaped: ShapedHead, shot: Shot, yaw: float, pitch: float, size: int) -> Cameras:
    """A camera one metre in front of what `shot` names, size × size pixels."""
    eyes = shaped.joints[-2:].mean(0)
    target = eyes + eyes.new_tensor(shot.target)
    a, b = np.deg2rad(yaw), np.deg2rad(pitch)
    away = eyes.new_tensor([np.sin(a) * np.cos(b), np.sin(b), np.cos(a) * np.cos(b)])
    focal = size / shot.width
    K = eyes.new_tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    return Cameras(("portrait",), K[None], look_at(target + away, target, eyes.new_tensor([0.0, 1.0, 0.0]))[None], size, size)


def draw(head: HeadModel, shaped: ShapedHead, weights: torch.Tensor, shot: Shot, size: int) -> np.ndarray:
    """All views of one expression (weights [1, E]) side by side, uint8 [size, views · size, 3]."""
    vertices = head.vertices(shaped, replace(head.neutral(), expression=weights))
    colors = head_colors(head)
    cells = []
    for yaw, pitch in shot.views:
        camera = portrait(head, shaped, shot, yaw, pitch, size)
        picture = render_mesh(Mesh(vertices, head.faces), camera, colors, supersample=2)
        cells.append((picture.color[0].cpu().numpy() * 255 + 0.5).clip(0, 255).astype(np.uint8))
    return np.concatenate(cells, 1)


def weights_for(head: HeadModel, name: str) -> torch.Tensor:
    """[1, E] that show one expression at full strength."""
    weights = head.expression(**{name: 1.0})
    if name in ON_OPEN_MOUTH and "jawOpen" in head.expression_names:
        weights = weights + head.expression(jawOpen=ON_OPEN_MOUTH[name])
    return weights


def expression_sheet(
    head: HeadModel, identity: Identity, shot: Shot = SHOTS["face"], size: int = 180, columns: int = 6, names: Sequence[str] = ()
) -> np.ndarray:
    """The rest pose and every expression (or those named), labelled, uint8 [H, W, 3]."""
    shaped = head.shape(identity)
    cells = []
    for name in ("", *(names or head.expression_names)):
        weights = weights_for(head, name) if name else head.neutral().expression
        cell = draw(head, shaped, weights, shot, size)
        cv2.putText(cell, name or "rest", (6, size - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (20, 20, 20), 1, cv2.LINE_AA)
        cells.append(cell)
    while len(cells) % columns:
        cells.append(np.full_like(cells[0], 255))
    return np.concatenate([np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)], 0)


def random_identity(head: HeadModel, seed: int, spread: float = 1.0) -> Identity:
    """A person drawn from the prior; seed 0 is the mean."""
    noise = torch.randn(head.I, generator=torch.Generator().manual_seed(seed)).to(head.template)
    return Identity(noise * (spread if seed else 0.0))


def main(arguments: Sequence[str]) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m avatars.head.sheet", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--head", type=Path, default=None, help="head file; the default head otherwise")
    parser.add_argument("--identity", type=int, default=0, help="seed of a random person; 0 is the mean")
    parser.add_argument("--closeup", choices=tuple(SHOTS), default="face")
    parser.add_argument("--size", type=int, default=180, help="pixels per picture")
    options = parser.parse_args(arguments)
    try:
        head = load_head(options.head)
        sheet = expression_sheet(head, random_identity(head, options.identity), SHOTS[options.closeup], options.size)
        with atomic_path(options.out) as temporary:
            if not cv2.imwrite(str(temporary), sheet[..., ::-1]):
                raise UserError(f"{options.out} cannot be written as a picture; use the ending .png.")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
