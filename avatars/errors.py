"""Errors that a user can act on. The command line prints their message alone and exits with 2."""

from __future__ import annotations


class UserError(Exception):
    """Something given to us is wrong: the message says what, where (the file), and what to do about it."""


class CaptureError(UserError):
    """A capture cannot be used as it is."""


class ConfigError(UserError):
    """A configuration names something unknown or has a value of the wrong kind."""


class AvatarError(UserError):
    """An avatar folder, checkpoint or tracked sequence is missing, damaged or of another version."""


class DiskFull(UserError):
    """A disk or a quota is used up; nothing half-written is left."""

    def __init__(self, text: str, needed: float = 0.0) -> None:
        super().__init__(text)
        self.needed = needed  # bytes that are still to be written, 0 where that is not known
