"""Tracking: a head model fitted to every frame of a capture, from all cameras at once.

What computes is loaded when it is first asked for, so that `avatars track --help` can show the configuration without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from capture.track.config import TrackConfig

if TYPE_CHECKING:
    from capture.track.measure import mesh_error
    from capture.track.pipeline import track

__all__ = ["TrackConfig", "mesh_error", "track"]


def __getattr__(name: str) -> Any:
    if name == "track":
        from capture.track.pipeline import track

        return track
    if name == "mesh_error":
        from capture.track.measure import mesh_error

        return mesh_error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
