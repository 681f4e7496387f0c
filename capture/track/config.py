"""What tracking optimises, in which order and how strongly: stages as data. Every field can be set in a TOML file."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Priors:
    """Standard deviations of the parameters of a frame; smaller holds them closer to rest."""

    expression: float = 0.35
    """Weight of an expression."""
    neck: float = 0.25
    """Radians."""
    head: float = 0.25
    jaw: float = 0.03
    """Turn of the jaw beyond what the expressions cause."""
    eyes: float = 0.3
    bound: float = 0.03
    """How far an expression may lie outside of 0–1."""
    symmetry: float = 0.15
    """Difference of the left and the right eye's lids and gaze."""


@dataclass(frozen=True)
class Smooth:
    """Standard deviations of the second difference from frame to frame, at 24 frames a second."""

    expression: float = 0.12
    joints: float = 0.03
    """Radians."""
    eyes: float = 0.15
    root: float = 0.002
    """Radians and metres. Calibrated cameras: the shoulders stand still and the neck explains the motion."""
    root_drift: float = 0.0003
    """First difference of the root, in radians and metres."""


@dataclass(frozen=True)
class LandmarkStage:
    """Identity, pose and expression from the detector's landmarks."""

    rounds: int = 3
    """Alternations of identity and poses."""
    iterations: int = 8
    sigma_mm: float = 6.0
    """Noise of one landmark in one camera. Errors of neighbouring landmarks and cameras are alike, so larger than their scatter."""
    robust_mm: float = 3.0
    pair_sigma_mm: float = 1.5
    """Noise of the distances between lids and between lips."""
    identity_frames: int = 12


@dataclass(frozen=True)
class TrackConfig:
    """Everything that decides the result of tracking."""

    exclude_cameras: tuple[str, ...] = ()
    """Cameras that tracking does not look at (they are still in the result)."""
    detector_passes: int = 2
    priors: Priors = field(default_factory=Priors)
    smooth: Smooth = field(default_factory=Smooth)
    landmarks: LandmarkStage = field(default_factory=LandmarkStage)
