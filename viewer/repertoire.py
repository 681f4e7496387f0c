"""What can be played on a stage: the tracked sequences, then every performance that was added, one timeline of them all."""

from __future__ import annotations

import threading
from pathlib import Path

from avatars.avatar import Timeline as AvatarTimeline
from avatars.sequence import Segment
from avatars.types import HeadPose
from viewer.posing import Track
from viewer.stage import Timeline
from viewer.takes import unused_name


class Repertoire:
    """Poses of one head over the timeline. Any thread may add."""

    def __init__(self, line: AvatarTimeline) -> None:
        self.timeline: Timeline | None = Timeline(line.fps, line.segments) if line.frame_count else None
        self.track = Track(line.codes) if line.frame_count else None
        self._sounds: dict[str, Path] = {}
        self._adding = threading.Lock()

    def stop(self, time: float) -> int:
        """Where the sequence ends that is playing at `time`."""
        assert self.timeline is not None
        return self.timeline.segment_at(time).stop

    def at(self, time: float) -> HeadPose | None:
        """The recorded pose; None when there is no recording."""
        return None if self.track is None else self.track.at(time, self.stop(time))

    def add(self, name: str, poses: HeadPose, fps: float, sound: Path | None = None) -> str:
        """Put a performance at the end; the name of its sequence."""
        with self._adding:
            known = self.timeline.segments if self.timeline is not None else ()
            title, start = unused_name(name, {s.name for s in known}), known[-1].stop if known else 0
            if sound is not None:
                self._sounds[title] = sound
            self.track = Track(poses if self.track is None else HeadPose.cat([self.track.codes, poses]))
            self.timeline = Timeline(fps, (*known, Segment(title, start, start + len(poses))))
        return title

    def poses(self, sequence: str) -> HeadPose | None:
        """The frames of one sequence; None when there is none of that name."""
        segments = self.timeline.segments if self.timeline is not None else ()
        segment = next((s for s in segments if s.name == sequence), None)
        return None if segment is None or self.track is None else self.track.codes[slice(segment.start, segment.stop)]

    def sound(self, sequence: str) -> Path | None:
        """The sound of a performance that was added with one."""
        return self._sounds.get(sequence)
