"""The avatars that are open on a stage, all doing what one recording and one desk say.

The first leads: its recordings are the timeline and its world is the stage. Another avatar of the same capture (another
training, another checkpoint) plays its own tracking of the same frames; an avatar of somebody else is retargeted: the
leader's poses go to it by the names of expressions and joints, in the leader's place.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace

from torch import Tensor

from avatars.avatar import Avatar
from avatars.errors import UserError
from avatars.playback import rest_pose
from avatars.texture import bake_texture
from avatars.types import Gaussians, HeadPose
from viewer.posing import Track, for_head, posed
from viewer.repertoire import Repertoire
from viewer.stage import TRUTH, Controls

MOST = 8  # avatars at once
_KEPT_POSES = 6


class Ensemble:
    """Avatars by name; `lead` is the first. Drawing happens in one thread, opening in another."""

    def __init__(self, lead: str, avatar: Avatar, repertoire: Repertoire, backend: str) -> None:
        self.lead, self.repertoire, self.backend = lead, repertoire, backend
        self.rest = rest_pose(avatar)
        self._members: dict[str, Avatar] = {lead: avatar}
        self._tracks: dict[str, Track] = {}
        self._posed: OrderedDict[tuple[str, float, Controls], tuple[HeadPose, Gaussians]] = OrderedDict()
        self._textures: dict[str, Tensor] = {}
        self._opening = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """All that are open, the leader first."""
        return tuple(self._members)

    def __getitem__(self, name: str) -> Avatar:
        """An avatar; the empty name is the leader."""
        return self._members[name or self.lead]

    def add(self, avatar: Avatar, name: str) -> str:
        """Open another; the name that it got. UserError when there are too many."""
        with self._opening:
            if len(self._members) >= MOST:
                raise UserError(f"{MOST} avatars are open already; close one first.")
            title = next(t for t in (name, *(f"{name} ({letter})" for letter in "BCDEFGHI")) if t not in self._members and t != TRUTH)
            line, own = avatar.timeline, self[self.lead].timeline
            if line.frame_count and line.segments == own.segments and line.fps == own.fps:
                self._tracks[title] = Track(line.codes)
            self._members = {**self._members, title: avatar}
        return title

    def remove(self, name: str) -> None:
        """Close one; ValueError for the leader, whose stage it is."""
        if name == self.lead or name not in self._members:
            raise ValueError(f"{name} cannot be closed")
        with self._opening:
            self._members = {k: v for k, v in self._members.items() if k != name}
            self._tracks.pop(name, None)
        self._forget(name)

    def replace_lead(self, avatar: Avatar) -> None:
        """A newer state of the leader."""
        self._members = {**self._members, self.lead: avatar}
        self._forget(self.lead)

    def posed(self, name: str, time: float, controls: Controls) -> tuple[HeadPose, Gaussians]:
        """One avatar's pose and Gaussians at a time, as the desk has set them."""
        name = name or self.lead
        key = (name, time, controls)
        if key not in self._posed:
            pose = self.pose(name, time, controls)
            self._posed[key] = pose, self[name].at(pose)
            while len(self._posed) > _KEPT_POSES:
                self._posed.popitem(last=False)
        self._posed.move_to_end(key)
        return self._posed[key]

    def pose(self, name: str, time: float, controls: Controls) -> HeadPose:
        """One avatar's pose."""
        avatar, lead = self[name], self[self.lead]
        track = self._tracks.get(name or self.lead)
        if track is not None and time < len(track.codes):
            recorded = track.at(time, self.repertoire.stop(time))
            names = avatar.head.expression_names
            mine = tuple((n, w) for n, w in controls.held if n in names)
            return posed(avatar.head, avatar.identity, rest_pose(avatar), recorded, _with(controls, mine))
        pose = posed(lead.head, lead.identity, self.rest, self.repertoire.at(time), controls)
        return pose if avatar is lead else for_head(pose, lead.head, avatar.head)

    def texture(self, name: str) -> Tensor:
        """[S, S, 3] of one avatar's mesh, baked when it is first wanted."""
        name = name or self.lead
        if name not in self._textures:
            self._textures[name] = bake_texture(self[name], backend=self.backend)
        return self._textures[name]

    def _forget(self, name: str) -> None:
        for key in [k for k in list(self._posed) if k[0] == name]:
            self._posed.pop(key, None)
        self._textures.pop(name, None)


def _with(controls: Controls, held: tuple[tuple[str, float], ...]) -> Controls:
    return replace(controls, held=held) if held != controls.held else controls
