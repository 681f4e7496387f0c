"""Tracking: a head model fitted to every frame of a capture, from all cameras at once."""

from capture.track.config import TrackConfig
from capture.track.measure import mesh_error
from capture.track.pipeline import track

__all__ = ["TrackConfig", "mesh_error", "track"]
