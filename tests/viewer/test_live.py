"""Live driving: packets through a real socket, hostile ones among them, calibration and takes."""

from __future__ import annotations

import random
import socket
import struct
import time

import numpy as np
import pytest

from avatars.drive import ARKIT_NAMES
from avatars.errors import UserError
from viewer.follow import VALUES, codes_of
from viewer.hearing import Microphone
from viewer.live import LiveLink, decode, encode
from viewer.stage import Controls


def face(**values: float) -> np.ndarray:
    """[61] with some weights; yaw, pitch, roll of the head by these names."""
    result = np.zeros(VALUES)
    for name, value in values.items():
        result[52 + ("yaw", "pitch", "roll").index(name) if name in ("yaw", "pitch", "roll") else ARKIT_NAMES.index(name)] = value
    return result


def test_packets_there_and_back() -> None:
    packet = decode(encode("Jo's phone", face(jawOpen=0.5, tongueOut=0.25, yaw=0.1)))
    assert packet.subject == "Jo's phone" and packet.values[ARKIT_NAMES.index("jawOpen")] == 0.5
    assert packet.values[ARKIT_NAMES.index("tongueOut")] == 0.25 and packet.values[52] == pytest.approx(0.1)
    assert decode(encode("x", face())[:46]).values == ()  # no face is seen


def test_two_hundred_bad_packets_are_refused_with_a_reason() -> None:
    chance, good = random.Random(1), encode("phone", face(jawOpen=1))
    bad = [bytes(chance.randrange(256) for _ in range(chance.randrange(45))) for _ in range(60)]
    bad += [good[:n] for n in range(0, 45)] + [good[:n] for n in range(70, len(good), 8)] + [good + b"x", good * 5]
    bad += [good[:41] + struct.pack(">i", n) + good[45:] for n in (-1, 10**6, 2**31 - 1, 257, 4)]
    bad += [struct.pack("<i", n) + good[4:] for n in (0, -6, 10**6)]
    bad += [encode("phone", np.full(VALUES, v)) for v in (np.nan, np.inf, 1e30)]
    bad += [bytes(chance.randrange(256) for _ in range(300)) for _ in range(60)]
    link = LiveLink(lambda: None)
    for packet in bad:
        link.take(packet)
    assert len(bad) >= 200 and link.refused == len(bad) and link.frames == 0 and link.reason and link.values == ()
    link.take(good)
    assert link.frames == 1


@pytest.fixture
def link():
    changes = []
    listening = LiveLink(lambda: changes.append(1))
    listening.listen(0, "127.0.0.1")
    listening.changes = changes
    yield listening
    listening.close()


def send(link: LiveLink, values: np.ndarray) -> None:
    before = link.frames
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        phone.sendto(encode("phone", values), ("127.0.0.1", link.port))
    deadline = time.monotonic() + 5
    while link.frames == before and time.monotonic() < deadline:
        time.sleep(0.002)
    assert link.frames == before + 1


def test_following_calibrating_and_recording(link: LiveLink) -> None:
    assert "Waiting" in link.status and link.values == ()
    with pytest.raises(UserError):
        link.calibrate()
    with pytest.raises(UserError):
        link.record()
    send(link, face(jawOpen=0.2, yaw=0.3))
    assert link.changes and "Following phone" in link.status and link.values[ARKIT_NAMES.index("jawOpen")] == pytest.approx(0.2)
    link.calibrate()
    assert np.allclose(link.values, 0, atol=1e-6)
    link.record()
    for weight in (0.2, 0.6, 1.0):
        send(link, face(jawOpen=weight, yaw=0.5))
        time.sleep(0.003)
    assert link.recording and "Recording" in link.status
    take = link.finish()
    assert np.allclose(take.weight("jawOpen"), (0, 0.5, 1.0), atol=1e-5) and take.times[0] == 0
    assert np.allclose(take.joints["head"][:, 1], 0.2, atol=1e-5) and not link.recording
    link.record()
    with pytest.raises(UserError, match="empty"):
        link.finish()
    link.clock = lambda: time.monotonic() + 10
    assert "silent" in link.status


def test_a_taken_port_is_an_error_with_a_remedy(link: LiveLink) -> None:
    other = LiveLink(lambda: None)
    with pytest.raises(UserError, match="another port"):
        other.listen(link.port, "127.0.0.1")
    assert not other.listening and "Not listening" in other.status
    other.listen(0, "127.0.0.1")
    other.close()
    other.close()


def test_the_avatar_does_what_the_phone_sees(toy_stage) -> None:
    values = tuple(face(jawOpen=0.7, yaw=0.4))
    pose = toy_stage._ensemble.pose("", 3.0, Controls(live=values))
    assert float(pose.expression[0, 0]) == pytest.approx(0.7) and float(pose.expression[0, 2]) == 0
    names = toy_stage.avatar.head.joint_names
    turned = pose.joints[0, names.index("neck")] + pose.joints[0, names.index("head")]
    assert float(turned[1]) == pytest.approx(0.4, abs=1e-4)  # to the subject's left
    held = toy_stage._ensemble.pose("", 3.0, Controls(held=(("jawOpen", 0.1),), live=values))
    assert float(held.expression[0, 0]) == pytest.approx(0.1)


def test_gaze_is_not_counted_twice() -> None:
    both = codes_of(face(eyeLookUpLeft=0.5)[None] + np.eye(VALUES)[55] * 0.3, np.zeros(1))
    assert "eye_left" not in both.joints and "head" in both.joints
    angles_only = codes_of(np.eye(VALUES)[55:56] * 0.3, np.zeros(1))
    assert float(angles_only.joints["eye_left"][0, 1]) == pytest.approx(0.3)


def test_a_microphone_drives_and_is_recorded_in_step() -> None:
    now, changes = [50.0], []
    microphone = Microphone(lambda: changes.append(1), lambda: now[0])
    piece = (8000 * np.sin(2 * np.pi * 300 * np.arange(640) / 16000)).astype("<i2").tobytes()
    with pytest.raises(ValueError, match="asked"):
        microphone.hear(piece)
    with pytest.raises(UserError, match="not been heard"):
        microphone.record()
    microphone.listen()
    for bad in (b"", b"x", b"\0" * (2 * 16_000 + 2)):
        with pytest.raises(ValueError, match="no piece"):
            microphone.hear(bad)
    assert "Waiting" in microphone.status and microphone.values == ()
    microphone.hear(bytes(32_000))
    microphone.record()
    for i in range(25):
        now[0] += 0.04 + 0.03 * (-1) ** i  # pieces come unevenly
        microphone.hear(piece)
    assert microphone.values[ARKIT_NAMES.index("jawOpen")] > 0.2 and "Following" in microphone.status and "Recording" in microphone.status
    take = microphone.finish()
    assert len(take) == 50 and take.duration == pytest.approx(1.0, abs=0.08) and take.weight("jawOpen")[0] < take.weight("jawOpen")[-1]
    now[0] += 10
    assert "silent" in microphone.status
    microphone.stop("taken away")
    assert "taken away" in microphone.status and microphone.values == ()
    with pytest.raises(UserError, match="nobody"):
        microphone.listen("nobody")
