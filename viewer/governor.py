"""Trading resolution for latency: while things move, pictures are as large as keeps them coming in time.

The controller sees how long a picture took to draw and how long the browser took to acknowledge it, and moves the
scale (picture width / canvas width) in steps of 1/8. Pure; one per client.
"""

from __future__ import annotations

STEP = 1 / 8
LEAST = 3 / 8
WARM_UP = 5  # acknowledgements
PAROLE = 400  # pictures after which a size that once did not pay is tried again


class Governor:
    """`scale` for moving pictures. Aims at `target` seconds from drawing to display per picture."""

    def __init__(self, target: float = 1 / 24, patience: int = 4) -> None:
        self.target = target
        self.patience = patience  # pictures in a row that must agree before the scale changes
        self.scale = 1.0
        self.draw_seconds: float | None = None
        self.trip_seconds: float | None = None
        self._best_trip: float | None = None
        self._trips = 0
        self._votes = 0
        self._tried: tuple[float, float] | None = None  # scale and seconds before the last shrinking
        self._seconds = 0.0
        self._banned = 0  # pictures for which shrinking is known not to help

    def drew(self, seconds: float, scale: float) -> None:
        """A moving picture at `scale` took `seconds` to draw and encode."""
        self.draw_seconds = _blend(self.draw_seconds, seconds)
        self._banned = max(self._banned - 1, 0)
        # Cost is close to proportional to pixels; a picture 1 step larger would cost this much:
        larger = seconds * ((scale + STEP) / scale) ** 2
        if seconds > 1.15 * self.target or self._congested():
            self._vote(-1, seconds)
        elif larger < 0.85 * self.target:
            self._vote(1, seconds)
        else:
            self._vote(0, seconds)
        if self._votes <= -self.patience:
            self._shrink(scale, self._seconds / self.patience)
        elif self._votes >= 4 * self.patience:  # grow slowly: a shrinking picture is seen, a late one is felt
            self._set(scale + STEP)
            self._tried = None

    def _vote(self, direction: int, seconds: float) -> None:
        if direction == 0 or direction * self._votes < 0:
            self._votes, self._seconds = direction, seconds
        else:
            self._votes, self._seconds = self._votes + direction, self._seconds + seconds

    def _shrink(self, scale: float, seconds: float) -> None:
        """Pictures of `scale` take `seconds`: too long. Smaller ones help only where the cost lies in the pixels."""
        if self._tried is not None and seconds > 0.85 * self._tried[1] and not self._congested():
            self._set(self._tried[0])
            self._tried, self._banned = None, PAROLE
        elif self._banned == 0 and scale > LEAST:
            wanted = scale * (self.target / max(seconds, 1e-6)) ** 0.5 if seconds > self.target else scale - STEP
            self._set(min(wanted, scale - STEP))
            self._tried = (scale, seconds)
        self._votes, self._seconds = 0, 0.0

    def acknowledged(self, seconds: float) -> None:
        """The browser confirmed a picture `seconds` after it was sent."""
        self._trips += 1
        if self._trips <= WARM_UP:  # a page that is still being built answers late
            return
        self.trip_seconds = _blend(self.trip_seconds, seconds)
        self._best_trip = seconds if self._best_trip is None else min(seconds, self._best_trip * 1.01)

    def _congested(self) -> bool:
        # Twice the best round trip and more than 150 ms over it: pictures queue on the way.
        if self.trip_seconds is None or self._best_trip is None:
            return False
        return self.trip_seconds > max(2 * self._best_trip, self._best_trip + 0.15)

    def _set(self, scale: float) -> None:
        self.scale = min(max(int(scale / STEP) * STEP, LEAST), 1.0)
        self._votes = 0


def _blend(old: float | None, new: float) -> float:
    return new if old is None else 0.8 * old + 0.2 * new
