"""The settings of training and of the deformation models. Free of torch, so that `--help` shows them at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from avatars.config import check_numbers


@dataclass(frozen=True)
class DeformSettings:
    """Settings shared by the deformation models; each reads those that it needs."""

    bases: int = 20
    """Number of corrections that the codes blend."""
    hidden: int = 48
    """Width of the layer between codes and blending weights; 0 makes the weights linear in the codes."""
    basis_rate: float = 0.05
    """Learning rate of the corrections to positions, relative to that of the positions."""
    color_rate: float = 0.5
    """Learning rate of the corrections to colours and rotations, relative to that of the colours and rotations."""
    weight_rate: float = 1e-3
    """Learning rate of the map from codes to blending weights."""
    regulariser: float = 0.01
    """Weight of the penalty on the size of the blended corrections; keeps unseen expressions tame."""

    def __post_init__(self) -> None:
        check_numbers(self, positive=("bases",))


_SHARES = ("initial", "shell", "half_until", "mean_decay", "refine_from", "refine_until", "deform_start", "ssim_weight")


@dataclass(frozen=True)
class TrainConfig:
    """How an avatar is trained. Rates are per step of Adam."""

    minutes: float = 8.0
    """Stop after so many minutes of training; 0: no limit in time."""
    steps: int = 0
    """Stop after so many steps; 0: no limit in steps. One of the two must be given; the first one reached counts."""
    seed: int = 0
    """Everything random follows from it."""
    held_out_cameras: tuple[str, ...] = ()
    """Cameras that are never trained on: evaluated as novel views."""
    held_out_sequences: tuple[str, ...] = ()
    """Sequences that are never trained on: evaluated as self-reenactment."""
    held_out_last: int = 0
    """Hold out the last so many frames of the timeline: for a capture of one sequence."""

    gaussians: int = 40_000
    """Number of Gaussians at the end."""
    initial: float = 0.6
    """Share of them that is there at the start; the rest grows where the error is."""
    shell: float = 0.35
    """Share of the initial ones that fills what the masks show beyond the mesh: hair, collar, shoulders."""
    sh_degree: int = 1
    """Degree of the view-dependent colour, 0–3."""
    deformation: str = "blendshapes"
    """Model of expression-driven corrections: the name of a file in avatars/deform."""
    deform: DeformSettings = field(default_factory=DeformSettings)
    """Settings of that model."""
    deform_start: float = 0.08
    """Share of the budget after which the corrections begin."""

    views: int = 4
    """Cameras per step."""
    half_until: float = 0.25
    """Share of the budget that trains at half of the resolution."""
    mean_rate: float = 1.6e-4
    """Positions, metres per step at the start; it decays exponentially."""
    mean_decay: float = 0.02
    """Positions' rate at the end, relative to the start; the other rates decay by its square root."""
    quat_rate: float = 2e-3
    """Rotations, of quaternion components."""
    scale_rate: float = 7e-3
    """Sizes, of their logarithms."""
    opacity_rate: float = 3e-2
    """Opacities, of their logits."""
    color_rate: float = 5e-3
    """Constant colour; the view-dependent terms take a tenth."""
    expression_rate: float = 3e-4
    """Tuning of the tracked expressions of the training frames; 0 leaves them."""
    joint_rate: float = 1e-4
    """Tuning of joints and root rotation, radians."""
    translation_rate: float = 1e-5
    """Tuning of the root's translation, metres."""

    ssim_weight: float = 0.2
    """Share of 1 − SSIM in the photometric loss; the rest is L1."""
    mouth_weight: float = 2.0
    """Extra weight of the mouth's surroundings."""
    eyes_weight: float = 2.0
    """Extra weight of the eyes' surroundings."""
    coverage_weight: float = 0.1
    """Weight of |alpha − mask|."""
    position_weight: float = 0.01
    """Penalty on means that leave their triangle's neighbourhood."""
    scale_weight: float = 1.0
    """Penalty on scales beyond `max_scale` triangle units."""
    opacity_weight: float = 0.002
    """Weight of the mean opacity: what no picture needs fades away."""
    max_scale: float = 1.0
    """Largest free scale, triangle units."""
    lpips_weight: float = 0.0
    """Weight of LPIPS; needs `lpips_weights`."""
    lpips_weights: Path | None = None
    """Network weights for LPIPS (.safetensors or .pth); never downloaded."""
    color_ridge: float = 0.02
    """Strength that pulls each camera's colour correction towards none."""

    refine_every: int = 60
    """Steps between densifications."""
    refine_from: float = 0.05
    """Share of the budget at which densification begins."""
    refine_until: float = 0.6
    """Share of the budget at which it ends."""
    split_size: float = 0.003
    """Gaussians larger than this (metres) are split, smaller ones doubled."""
    checkpoint_seconds: float = 60.0
    """Time between checkpoints."""
    cache_megabytes: float = 1500.0
    """Memory for decoded pictures."""

    def __post_init__(self) -> None:
        if not 0 <= self.minutes < math.inf or (self.minutes == 0 and self.steps <= 0):
            raise ValueError("minutes or steps must be positive")
        check_numbers(
            self, positive=("gaussians", "views", "refine_every", "initial", "mean_decay", "max_scale", "split_size"),
            most={"gaussians": 5_000_000, "views": 1000} | dict.fromkeys(_SHARES, 1),
        )  # fmt: skip
        if self.sh_degree not in (0, 1, 2, 3):
            raise ValueError(f"sh_degree must be 0, 1, 2 or 3, got {self.sh_degree}")
        if self.shell == 1:
            raise ValueError("shell must be less than 1: some Gaussians must lie on the mesh")
