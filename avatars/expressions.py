"""How people find and combine expressions: regions of the face, opposite sides, presets. Shared by everything that shows sliders.

Names are the 52 ARKit names; left is the subject's left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

REGIONS: Mapping[str, tuple[str, ...]] = {  # region → prefixes of ARKit names
    "Mouth": ("mouth",),
    "Jaw": ("jaw",),
    "Eyes": ("eyeBlink", "eyeSquint", "eyeWide"),
    "Gaze": ("eyeLook",),
    "Brows": ("brow",),
    "Cheeks and nose": ("cheek", "nose"),
    "Tongue": ("tongue",),
}
OTHER = "More"

_SMILE = {"mouthSmile": 0.8, "cheekSquint": 0.45, "eyeSquint": 0.3, "mouthDimple": 0.25}
PRESETS: Mapping[str, Mapping[str, float]] = {  # a name without side stands for both sides
    "Neutral": {},
    "Smile": _SMILE,
    "Laugh": {**_SMILE, "jawOpen": 0.45, "mouthUpperUp": 0.35, "eyeSquint": 0.6},
    "Surprise": {"browInnerUp": 0.9, "browOuterUp": 0.7, "eyeWide": 0.8, "jawOpen": 0.5},
    "Anger": {"browDown": 0.9, "eyeSquint": 0.5, "noseSneer": 0.5, "mouthPress": 0.5, "mouthFrown": 0.3},
    "Sadness": {"browInnerUp": 0.8, "mouthFrown": 0.7, "mouthShrugLower": 0.4, "eyeLookDown": 0.3},
    "Disgust": {"noseSneer": 0.9, "mouthUpperUp": 0.6, "browDown": 0.5, "eyeSquint": 0.4},
    "Eyes closed": {"eyeBlink": 1.0},
    "Viseme AA": {"jawOpen": 0.6, "mouthLowerDown": 0.3, "mouthUpperUp": 0.15},
    "Viseme E": {"jawOpen": 0.25, "mouthStretch": 0.5, "mouthSmile": 0.25, "mouthLowerDown": 0.3},
    "Viseme I": {"jawOpen": 0.15, "mouthSmile": 0.4, "mouthStretch": 0.3},
    "Viseme O": {"jawOpen": 0.4, "mouthFunnel": 0.7},
    "Viseme U": {"jawOpen": 0.15, "mouthPucker": 0.8, "mouthFunnel": 0.3},
    "Viseme FV": {"mouthRollLower": 0.6, "mouthUpperUp": 0.25, "jawOpen": 0.05},
    "Viseme MBP": {"mouthPress": 0.4, "mouthRollLower": 0.3, "mouthRollUpper": 0.3},
}
_SIDES = (("Left", "Right"), ("Right", "Left"))
_DIRECTIONS = ("jawLeft", "jawRight", "mouthLeft", "mouthRight")  # here Left is where it goes, not where it is


def regions(names: Sequence[str]) -> dict[str, list[str]]:
    """Group expression names by region, in the order of `REGIONS`; names of no region come last under "More"."""
    groups: dict[str, list[str]] = {region: [] for region in REGIONS}
    groups[OTHER] = []
    for name in names:
        region = next((r for r, prefixes in REGIONS.items() if name.startswith(prefixes)), OTHER)
        groups[region].append(name)
    return {region: members for region, members in groups.items() if members}


def counterpart(name: str, names: Sequence[str]) -> str | None:
    """The same expression on the other side of the face (for gaze, the one that turns both eyes alike), or None."""
    for side, other in _SIDES:
        if name.endswith(side) and name not in _DIRECTIONS:
            mirrored = name.removesuffix(side) + other
            if mirrored.startswith("eyeLookIn"):  # both eyes to one side: one turns in, the other out
                mirrored = mirrored.replace("eyeLookIn", "eyeLookOut")
            elif mirrored.startswith("eyeLookOut"):
                mirrored = mirrored.replace("eyeLookOut", "eyeLookIn")
            return mirrored if mirrored in names else None
    return None


def without_side(name: str) -> str:
    return name if name in _DIRECTIONS else name.removesuffix("Left").removesuffix("Right")


def preset(name: str, names: Sequence[str]) -> dict[str, float]:
    """Weights of all of `names` in the preset called `name`: its own, or zero; ValueError lists the known presets."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; known: {', '.join(PRESETS)}")
    wanted = PRESETS[name]
    return {n: float(wanted.get(n, wanted.get(without_side(n), 0.0))) for n in names}
