"""Photoreal, animatable head avatars from multi-view captures."""

__version__ = "0.1.0"
