"""What tracking optimises, in which order and how strongly: stages as data. Every field can be set in a TOML file."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from avatars.config import check_numbers

_NOISES = ("sigma_mm", "robust_mm", "pair_sigma_mm", "landmark_sigma_mm", "identity_sigma_mm", "identity_frames", "points", "iterations")


@dataclass(frozen=True)
class Priors:
    """Standard deviations of a frame's parameters about rest; smaller holds them closer."""

    expression: float = 0.4
    """Weight of an expression."""
    bound: float = 0.02
    """How far an expression may lie outside of 0-1."""
    neutral: float = 0.02
    """Weight of an expression in the reference frame, whose face is taken to be at rest."""
    neck: float = 0.3
    """Radians, as are all rotations."""
    head: float = 0.3
    jaw: float = 0.04
    """Turn of the jaw beyond what the expressions cause."""
    jaw_aside: float = 0.01
    """Its turn about the other two axes."""
    eyes: float = 0.08
    """Turn of an eye beyond what eyeLook* cause; small, so that gaze is found in the expressions that people see by name."""
    eyes_alike: float = 0.1
    """Difference between the left and the right eye's lids, and between their gazes."""

    def __post_init__(self) -> None:
        check_numbers(self, positive=[f.name for f in fields(self)])


@dataclass(frozen=True)
class Smooth:
    """Standard deviations of the change from frame to frame at 24 frames a second: second differences, except the drift."""

    expression: float = 0.25
    joints: float = 0.03
    eyes: float = 0.2
    root: float = 0.001
    """Radians and metres. Calibrated cameras: the shoulders stand still, and the neck explains the motion."""
    root_drift: float = 0.0003
    """First difference of the root."""
    free_root: float = 0.006
    """The same two for a single camera, before which a person moves as a whole."""
    free_root_drift: float = 0.01

    def __post_init__(self) -> None:
        check_numbers(self, positive=[f.name for f in fields(self)])


@dataclass(frozen=True)
class LandmarkStage:
    """Identity, pose and expression from the detector's landmarks."""

    passes: int = 2
    """Crops around each face that the detector looks at once more (0-4)."""
    rounds: int = 4
    """Alternations of poses and identity."""
    iterations: int = 8
    sigma_mm: float = 6.0
    """Noise of one landmark in one camera; neighbouring landmarks and cameras err alike, so it is larger than their scatter."""
    robust_mm: float = 3.0
    pair_sigma_mm: float = 1.5
    """Noise of the distances between the lids and between the lips."""
    identity_frames: int = 12
    """Frames, spread over time, that decide the identity."""
    identity_sigma_mm: float = 20.0
    """The landmarks' noise for the identity: an error of meaning is the same in all frames."""

    def __post_init__(self) -> None:
        check_numbers(self, positive=_NOISES, most={"passes": 4})


@dataclass(frozen=True)
class ShapeStage:
    """The neutral surface from dense correspondence between calibrated cameras."""

    rounds: int = 3
    """The first moves the identity's coefficients, the others add offsets; 0 leaves the stage out."""
    sigma_mm: float = 8.0
    """Noise of the dense evidence for the identity's coefficients."""
    outline_trust: float = 0.15
    """How much the outlines of the mattes count beside dense evidence."""
    outline_rounds: int = 15
    """Small steps that bring shoulders and neck onto the outlines of all cameras; 0 leaves them where the first rounds put them."""
    stiffness: float = 0.5
    """How much bending costs on the face; other skin is stiffer."""

    def __post_init__(self) -> None:
        check_numbers(self, positive=_NOISES)


@dataclass(frozen=True)
class MotionStage:
    """Poses and expressions from dense correspondence with the reference frame."""

    rounds: int = 2
    """0 leaves the stage out. Rounds before the last look at fewer cameras, at half the resolution."""
    coarse_cameras: int = 8
    fine_cameras: int = 12
    """More add time and little precision."""
    points: int = 1600
    iterations: int = 8
    sigma_mm: float = 2.0
    robust_mm: float = 0.7
    landmark_sigma_mm: float = 20.0
    """Landmarks go on deciding what the flow cannot see (closed lids); their constant error is taken out first."""
    pair_sigma_mm: float = 2.0
    still_mm: float = 0.3
    """How far the shoulders stray from where the reference frame shows them, with calibrated cameras; several times as much tells that the
    person moved. 0 lets them go anywhere."""
    evening: float = 0.02
    """Brightness and contrast that change over more than this fraction of the picture's height are taken out."""

    def __post_init__(self) -> None:
        check_numbers(self, positive=_NOISES)


@dataclass(frozen=True)
class TrackConfig:
    """Everything that decides the result of tracking."""

    reference: str = ""
    """The frame in which the face is at rest, as SEQUENCE:FRAME; left out: the calmest."""
    skip_cameras: tuple[str, ...] = ()
    """Cameras that tracking does not look at; they are in the result all the same."""
    priors: Priors = field(default_factory=Priors)
    smooth: Smooth = field(default_factory=Smooth)
    landmarks: LandmarkStage = field(default_factory=LandmarkStage)
    shape: ShapeStage = field(default_factory=ShapeStage)
    motion: MotionStage = field(default_factory=MotionStage)
    workers: int = 2
    """Threads that compare pictures."""

    def __post_init__(self) -> None:
        check_numbers(self, positive=("workers",))
