"""Driving live: the UDP packets of Live Link Face, the newest of which the face follows; takes can be recorded.

A packet is, without padding: version (int32, little endian); 37 bytes of device id; then big endian: length of the name
(int32), the name, frame (int32), part of a frame (float32), rate and its denominator (int32 each), the number of values (uint8,
61), and the values (float32): the 52 ARKit weights in the order of `avatars.drive.ARKIT_NAMES`, then yaw, pitch and roll of the
head, the left eye and the right eye. A packet that ends after the name says that no face is seen.

Nothing listens until it is asked to. What arrives is untrusted: it is parsed within bounds, and anything else is counted and
named, never acted upon.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from avatars.errors import UserError
from viewer.follow import VALUES, Follower

PORT = 11111  # the application's own default
_LARGEST = 4096


@dataclass(frozen=True)
class Packet:
    """One frame as it arrived."""

    subject: str
    values: tuple[float, ...]  # [61]; empty when no face is seen


def decode(packet: bytes) -> Packet:
    """Parse a packet; ValueError says why it is none."""
    if len(packet) < 45:
        raise ValueError(f"{len(packet)} bytes are too few")
    (version,), (name_length,) = struct.unpack_from("<i", packet), struct.unpack_from(">i", packet, 41)
    if not 1 <= version <= 100:
        raise ValueError(f"version {version} is unknown")
    if not 0 <= name_length <= 256 or 45 + name_length > len(packet):
        raise ValueError(f"a name of {name_length} bytes does not fit")
    end = 45 + name_length
    subject = packet[45:end].decode("utf-8", "replace")
    if len(packet) < end + 17:
        return Packet(subject, ())
    count = packet[end + 16]
    if count != VALUES or len(packet) != end + 17 + 4 * VALUES:
        raise ValueError(f"{count} values in {len(packet) - end - 17} bytes, expected {VALUES} in {4 * VALUES}")
    values = struct.unpack_from(f">{VALUES}f", packet, end + 17)
    if not np.isfinite(values).all() or max(abs(v) for v in values) > 100:
        raise ValueError("values that are no weights or angles")
    return Packet(subject, values)


def encode(subject: str, values: np.ndarray, frame: int = 0, fps: int = 60) -> bytes:
    """A packet as the application sends it; for tests and for driving a viewer from another program."""
    name = subject.encode()
    head = struct.pack("<i", 6) + b"$" + b"00000000-0000-0000-0000-000000000000" + struct.pack(">i", len(name)) + name
    return head + struct.pack(">ifiiB", frame, 0.0, fps, 1, VALUES) + struct.pack(f">{VALUES}f", *values)


class LiveLink(Follower):
    """A listener on one UDP port, shared by all browsers. `changed` is called for every frame that arrived."""

    def __init__(self, changed: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(changed, clock)
        self.refused = 0
        self.reason = ""
        self.port: int | None = None
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def listen(self, port: int = PORT, host: str = "0.0.0.0") -> None:
        """Open the port to the network (a telephone is another machine); UserError when it is taken."""
        if self._socket is not None:
            return
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            receiver.bind((host, port))
        except (OSError, OverflowError) as error:
            receiver.close()
            raise UserError(f"Cannot listen on UDP port {port}: {error}. Close the other program, or choose another port.") from None
        receiver.settimeout(0.25)
        self._socket, self.port = receiver, receiver.getsockname()[1]
        self._thread = threading.Thread(target=self._receive, args=(receiver,), name="viewer-live", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        receiver, self._socket = self._socket, None
        if receiver is not None:
            receiver.close()
            assert self._thread is not None
            self._thread.join(timeout=2)
        self.port = None

    @property
    def listening(self) -> bool:
        """Whether the port is open."""
        return self._socket is not None

    @property
    def status(self) -> str:
        """One sentence for the panel."""
        if not self.listening:
            return "Not listening."
        if self._raw is None:
            text = f"Waiting for Live Link Face on UDP port {self.port}."
        elif self.silent:
            text = f"{self.subject} is silent."
        else:
            text = f"Following {self.subject}."
        if self._recording is not None:
            text += f" Recording: {len(self._recording)} frames."
        if self.refused:
            text += f" {self.refused} packet{'' if self.refused == 1 else 's'} refused ({self.reason})."
        return text

    def take(self, packet: bytes) -> None:
        """Act on one packet."""
        try:
            frame = decode(packet)
        except ValueError as error:
            self.refused, self.reason = self.refused + 1, str(error)
            return
        if not frame.values:
            return
        self.receive(frame.subject, np.array([frame.values]))

    def _receive(self, receiver: socket.socket) -> None:
        while self._socket is receiver:
            try:
                packet, _ = receiver.recvfrom(_LARGEST)
            except TimeoutError:
                continue
            except OSError:  # closed
                return
            self.take(packet)
