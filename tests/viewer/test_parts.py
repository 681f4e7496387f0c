"""The parts without a browser: transport, desk, governor, cameras, commands, loop, session."""

from __future__ import annotations

import json
import math
import threading

import numpy as np
import pytest
from synthetic import BallStage

from avatars.expressions import PRESETS, counterpart, regions
from avatars.head.model import ARKIT
from viewer import cameras
from viewer.bar import describe, perform
from viewer.cameras import Rect, fit, fitted_fov, nearest, orbit, orbit_of, view_matrix
from viewer.desk import Desk, matches
from viewer.governor import LEAST, WARM_UP, Governor
from viewer.loop import NEVER, RenderLoop
from viewer.session import MOST_FPS, STILL_SECONDS, Session
from viewer.splats import Splats
from viewer.stage import Request
from viewer.transport import Transport


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Screen:
    ready = True

    def __init__(self) -> None:
        self.shown: list[tuple[np.ndarray, bool]] = []

    def show(self, picture: np.ndarray, exact: bool, time: float) -> None:
        self.shown.append((picture, exact))


def make_session(stage: BallStage | None = None) -> tuple[Session, Clock, Screen]:
    stage, clock, screen = stage or BallStage(), Clock(), Screen()
    session = Session(stage, RenderLoop(stage, clock), screen, lambda _: None, clock)
    session.resized(400, 300)
    clock.now += 10  # long after the camera was sent to the front
    session.camera_moved(np.array([0.0, 1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0]), 0.4)
    return session, clock, screen


def draw_now(session: Session, clock: Clock) -> Request:
    request = session.take(clock.now)
    session.show(request, session.stage.render(request), 0.01)
    return request


# Transport ---------------------------------------------------------------------------------------------------------


def test_playing_follows_the_clock_and_loops_within_the_sequence() -> None:
    clock = Clock()
    transport = Transport(BallStage().timeline, clock)
    transport.play()
    clock.now += 1.0
    assert transport.time == pytest.approx(24.0)
    clock.now += 1.0  # 48 frames in a sequence of 40
    assert transport.time == pytest.approx(8.0) and transport.sequence == "EXP-1"
    transport.set_speed(0.5)
    assert transport.time == pytest.approx(8.0)
    clock.now += 1.0
    assert transport.time == pytest.approx(20.0)
    transport.pause()
    clock.now += 5
    assert transport.time == 20.0


def test_without_loop_it_stops_on_the_last_frame_and_plays_again_from_the_start() -> None:
    clock = Clock()
    transport = Transport(BallStage().timeline, clock)
    transport.loop = False
    transport.play()
    clock.now += 9
    assert transport.time == 39.0 and not transport.playing
    transport.play()
    assert transport.time == 0.0


def test_seek_step_and_sequences() -> None:
    transport = Transport(BallStage().timeline, Clock())
    transport.seek(50)
    assert transport.bounds == (40, 88) and transport.sequence == "SEN-1"
    transport.step(-11)  # around the start of the range
    assert transport.frame == 87
    transport.step(1)
    assert transport.frame == 40
    transport.seek(1e9)
    assert transport.frame == 87
    transport.select("EXP-1")
    assert (transport.frame, transport.bounds) == (0, (0, 40))
    with pytest.raises(ValueError, match="nowhere"):
        transport.select("nowhere")


def test_in_and_out_points_hold_at_least_two_frames() -> None:
    transport = Transport(BallStage().timeline, Clock())
    transport.set_bounds(30, 30)
    assert transport.bounds == (30, 32) and transport.frame == 30
    transport.set_bounds(-5, 10**9)
    assert transport.bounds == (0, 88)


def test_a_stage_without_recordings_has_nothing_to_play() -> None:
    transport = Transport(None, Clock())
    transport.play()
    transport.seek(5)
    assert not transport.playing and transport.time == 0 and transport.sequence == ""


# Desk --------------------------------------------------------------------------------------------------------------


def test_every_arkit_name_has_a_region_and_presets_name_only_known_ones() -> None:
    groups = regions(ARKIT)
    assert sorted(n for names in groups.values() for n in names) == sorted(ARKIT) and "More" not in groups
    assert regions(("weird",)) == {"More": ["weird"]}
    for preset, weights in PRESETS.items():
        for name in weights:
            assert name in ARKIT or (name + "Left" in ARKIT and name + "Right" in ARKIT), (preset, name)


def test_counterparts() -> None:
    assert counterpart("mouthSmileLeft", ARKIT) == "mouthSmileRight"
    assert counterpart("eyeLookInLeft", ARKIT) == "eyeLookOutRight" and counterpart("eyeLookOutRight", ARKIT) == "eyeLookInLeft"
    assert counterpart("eyeLookUpLeft", ARKIT) == "eyeLookUpRight"
    assert counterpart("jawOpen", ARKIT) is None and counterpart("jawLeft", ARKIT) is None and counterpart("mouthRight", ARKIT) is None
    for name in ARKIT:
        other = counterpart(name, ARKIT)
        assert other is None or counterpart(other, ARKIT) == name


def test_holding_symmetry_presets_undo_redo() -> None:
    desk = Desk(ARKIT)
    desk.set("jawOpen", 0.2)
    desk.set("jawOpen", 0.4)  # the same drag
    desk.symmetric = True
    desk.set("mouthSmileLeft", 0.7)
    assert desk.held == {"jawOpen": 0.4, "mouthSmileLeft": 0.7, "mouthSmileRight": 0.7}
    desk.apply("Smile")
    assert len(desk.held) == 52 and desk.held["mouthSmileRight"] == 0.8 and desk.held["jawOpen"] == 0
    assert desk.undo() and desk.undo() and desk.held == {"jawOpen": 0.4}
    assert desk.undo() and desk.held == {} and not desk.undo()
    assert desk.redo() and desk.held == {"jawOpen": 0.4}
    desk.release()
    assert desk.held == {} and not desk.redo()


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"expressions": []}', '{"expressions": {"jawOpn": 1}}', '{"jawOpen": "1"}',
                                  '{"jawOpen": NaN}', '{"jawOpen": true}', "[" * 9000, "x" * 200_000])  # fmt: skip
def test_bad_codes_are_refused_with_a_reason(text: str) -> None:
    desk = Desk(ARKIT)
    with pytest.raises((ValueError, RecursionError)):
        desk.from_json(text)
    assert desk.held == {}


def test_codes_come_back_from_text() -> None:
    desk = Desk(ARKIT)
    desk.from_json('{"expressions": {"jawOpen": 0.25, "browInnerUp": 1}}')
    text = desk.to_json({n: desk.held.get(n, 0.0) for n in ARKIT})
    other = Desk(ARKIT)
    other.from_json(text)
    assert {k: v for k, v in other.held.items() if v} == {"jawOpen": 0.25, "browInnerUp": 1.0}
    with pytest.raises(ValueError, match="jawOpen"):
        desk.from_json('{"jawOpne": 1}')
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError):
            desk.set("jawOpen", bad)


def test_search() -> None:
    assert matches("mouthSmileLeft", "smile le") and matches("browInnerUp", "UP brow") and matches("jawOpen", "")
    assert not matches("mouthSmileLeft", "right")


# Governor ----------------------------------------------------------------------------------------------------------


def test_the_governor_shrinks_slow_pictures_and_grows_back() -> None:
    governor = Governor(target=0.04)
    for _ in range(200):
        governor.drew(0.12 * governor.scale**2, governor.scale)
    assert LEAST < governor.scale < 0.7
    assert 0.12 * governor.scale**2 < 1.3 * 0.04
    for _ in range(400):
        governor.drew(0.005 * governor.scale**2, governor.scale)
    assert governor.scale == 1.0


def test_the_governor_does_not_swing() -> None:
    governor, scales = Governor(target=0.04), []
    for _ in range(600):
        governor.drew(0.05 * governor.scale**2, governor.scale)
        scales.append(governor.scale)
    assert len(set(scales[200:])) == 1


def test_the_governor_keeps_the_size_where_pixels_are_not_what_costs() -> None:
    governor, scales = Governor(target=0.04), []
    for _ in range(300):
        governor.drew(0.1 + 0.001 * governor.scale**2, governor.scale)
        scales.append(governor.scale)
    assert np.mean(np.array(scales) == 1.0) > 0.9


def test_the_governor_gives_way_to_a_clogged_line() -> None:
    governor = Governor()
    for trip in [0.03] * (WARM_UP + 5) + [0.6] * 30:
        governor.acknowledged(trip)
        governor.drew(0.01, governor.scale)
    assert governor.scale < 0.7


# Cameras -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", cameras.PRESETS)
@pytest.mark.parametrize("aspect", [0.5, 1.6])
def test_presets_see_the_whole_head(preset: str, aspect: float) -> None:
    place = BallStage.place
    camera = orbit(place, preset, aspect)
    distance = np.linalg.norm(camera.position - place.centre)
    narrow = min(camera.fov, 2 * math.atan(math.tan(camera.fov / 2) * aspect))
    assert math.asin(place.radius / distance) <= narrow / 2 + 1e-9
    assert (camera.position[0] > 0.1) == ("left" in preset.lower())  # the subject's left is +x


def test_view_matrices_and_orbits_agree() -> None:
    wxyz, position = np.array([0.1, 0.9, 0.2, -0.3]), np.array([0.3, -0.2, 1.0])
    matrix = view_matrix(wxyz, position)
    assert np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3)) and np.isclose(np.linalg.det(matrix[:3, :3]), 1)
    assert np.allclose(matrix @ [*position, 1], [0, 0, 0, 1])
    back = orbit_of(matrix, 0.5, BallStage.place)
    assert np.allclose(back.position, position) and np.allclose(np.cross(back.look_at - back.position, matrix[2, :3]), 0)


def test_fitting_pictures() -> None:
    assert fit(400, 550, Rect(0, 0, 800, 550)) == Rect(200, 0, 400, 550)
    assert fit(400, 550, Rect(10, 20, 200, 600)) == Rect(10, 182, 200, 275)
    assert fitted_fov(0.5, 400, 550, 2.0) == pytest.approx(0.5)
    assert math.tan(fitted_fov(0.5, 400, 550, 0.5) / 2) == pytest.approx(math.tan(0.25) * (400 / 550) / 0.5)
    centres = np.array([[0, 0, 1.0], [1, 0, 0], [0, 0, -1]])
    assert nearest(np.array([0.8, 0, 0.1]), centres, np.zeros(3)) == 1


# Commands ----------------------------------------------------------------------------------------------------------


def test_the_bar_carries_out_commands() -> None:
    session, _, _ = make_session()
    done = []
    for command in ({"do": "seek", "value": 50.9}, {"do": "step", "value": 2}, {"do": "in"}, {"do": "speed", "value": 0.5}, {"do": "loop"},
                    {"do": "wipe", "value": 7}, {"do": "mode", "value": "Wipe"}, {"do": "snapshot"}):  # fmt: skip
        perform(session, command, {"snapshot": lambda: done.append(1)}, None)
    state = describe(session, np.array([[[30.0, 25.0, np.nan], [0.9, 0.8, np.nan]], [[np.nan] * 3] * 2] * 44))
    assert (state["time"], state["bounds"], state["speed"], state["loop"], state["wipe"]) == (52, [52, 88], 0.5, False, 1.0)
    assert state["mode"] == "Wipe" and state["camera"] == "front <1>" and done == [1]
    assert state["psnr"] == {"foreground": 30.0, "mouth": 25.0, "eyes": None} and state["curve"][1] is None
    json.dumps(state, allow_nan=False)
    perform(session, {"do": "worst"}, {}, np.array([30.0] * 55 + [20.0] + [31.0] * 32)[:, None, None] * np.ones((1, 2, 3)))
    assert session.transport.frame == 55


@pytest.mark.parametrize("command", [None, 3, [], {}, {"do": 1}, {"do": "fly"}, {"do": "seek"}, {"do": "seek", "value": "1"}, {"do": "seek", "value": True},
                                     {"do": "seek", "value": math.nan}, {"do": "speed", "value": None}, {"do": "mode", "value": "X"}, {"do": "sequence", "value": "x" * 999},
                                     {"do": "bounds", "value": [1]}, {"do": "bounds", "value": "ab"}, {"do": "look", "value": []}, {"do": "worst"}])  # fmt: skip
def test_the_bar_refuses_what_it_does_not_know(command: object) -> None:
    session, _, _ = make_session()
    with pytest.raises((ValueError, KeyError)):
        perform(session, command, {}, None)


# Session -----------------------------------------------------------------------------------------------------------


def test_a_change_is_drawn_at_once_then_exactly_then_nothing() -> None:
    session, clock, screen = make_session()
    assert session.wants(clock.now) == 0
    draw_now(session, clock)
    assert not screen.shown[-1][1]
    assert 0 < session.wants(clock.now) <= STILL_SECONDS
    clock.now += STILL_SECONDS + 0.01
    assert session.wants(clock.now) == 0
    request = draw_now(session, clock)
    assert screen.shown[-1][1] and (request.width, request.height) == (400, 300)
    assert session.wants(clock.now) == NEVER
    clock.now += 1
    session.desk.set("jawOpen", 0.5)
    assert session.wants(clock.now) == 0


def test_playing_is_bounded_and_waits_for_the_browser() -> None:
    session, clock, screen = make_session()
    session.transport.play()
    for _ in range(200):
        wait = session.wants(clock.now)
        if wait <= 0:
            draw_now(session, clock)
        clock.now += 0.005
    assert 0.7 * MOST_FPS < len(screen.shown) <= MOST_FPS + 2
    screen.ready = False
    clock.now += 0.1
    assert session.wants(clock.now) > 0


def test_truth_looks_through_the_nearest_camera_and_orbiting_leaves_it() -> None:
    session, clock, _ = make_session()
    session.camera_moved(np.array([0.0, 1.0, 0.0, 0.0]), np.array([0.3, 0.1, 1.2]), 0.4)
    session.set_mode("Reference")
    assert session.camera == "front <1>" and session.take(clock.now).mode == "Reference"
    matrix = np.reshape(session.stage.view("front <1>", 4 / 3)[0], (4, 4))
    position = -matrix[:3, :3].T @ matrix[:3, 3]
    session.camera_moved(np.array([0.0, 1.0, 0.0, 0.0]), position + 0.3, 0.4)  # on its way
    assert session.camera == "front <1>"
    session.camera_moved(np.array([0.0, 1.0, 0.0, 0.0]), position, 0.4)  # arrived
    session.camera_moved(np.array([0.0, 1.0, 0.0, 0.0]), position + 0.1, 0.4)  # dragged
    assert session.camera is None and session.mode == "Render"


def test_another_avatar_is_compared_from_anywhere() -> None:
    session, clock, _ = make_session()
    session.set_against("Rival")
    session.set_mode("Wipe")
    assert session.camera is None and session.take(clock.now).against == "Rival"
    session.look_from("Left")
    assert session.mode == "Wipe"
    session.set_against("Truth")
    assert session.camera == "side"  # the truth needs one of the capture's cameras, the nearest
    with pytest.raises(ValueError):
        session.set_against("Nobody")


def test_what_the_recordings_do_not_contain_is_named() -> None:
    session, _, _ = make_session()
    session.desk.set("jawOpen", 0.8)
    assert session.beyond() == []
    session.desk.set("jawOpen", 0.95)
    session.desk.set("mouthFunnel", -0.2)
    assert session.beyond() == ["jawOpen", "mouthFunnel"] and describe(session, None)["beyond"] == ["jawOpen", "mouthFunnel"]


def test_nonsense_from_the_browser_changes_nothing() -> None:
    session, clock, _ = make_session()
    before = session.full_request()
    for fov, x in ((math.nan, 0.0), (0.4, math.inf), (-1.0, 0.0), (9.0, 0.0)):
        session.camera_moved(np.array([0.0, 1.0, 0.0, 0.0]), np.array([x, 0.0, 1.0]), fov)
    session.camera_moved(np.zeros(4), np.zeros(3), 0.4)
    for size in ((0, 10), (10, -1), (10**9, 10)):
        with pytest.raises(ValueError):
            session.resized(*size)
    assert session.full_request() == before


def test_a_new_shape_of_the_canvas_fits_the_picture_of_the_camera_again() -> None:
    session, clock, _ = make_session()
    placed = []
    session.eye.place = placed.append
    session.look_through("front <1>")
    session.resized(200, 400)
    assert len(placed) == 2 and placed[1].fov > placed[0].fov
    session.resized(100, 200)
    assert len(placed) == 2 and session.take(clock.now).width == 100


def test_an_error_pauses_is_told_and_is_forgotten_after_the_next_change() -> None:
    session, clock, _ = make_session()
    session.transport.play()
    request = session.take(clock.now)
    session.fail(request, RuntimeError("no <memory>"))
    assert session.error == "no <memory>" and not session.transport.playing
    clock.now += 1
    assert session.wants(clock.now) == NEVER  # it does not try the same again and again
    session.desk.set("jawOpen", 0.3)
    assert session.wants(clock.now) == 0
    draw_now(session, clock)
    assert session.error is None


def test_a_browser_that_draws_gets_gaussians_when_the_face_changes_and_not_for_its_camera() -> None:
    session, clock, screen = make_session()

    class Drawn:
        shown, hidden = 0, 0

        def show(self, splats: Splats, background: tuple[int, int, int]) -> None:
            self.shown += 1

        def hide(self) -> None:
            self.hidden += 1

    session.splats = drawn = Drawn()  # type: ignore[assignment]
    session.set_drawn_by("browser")
    assert session.in_browser and session.wants(clock.now) == 0
    request = session.take(clock.now)
    session.show(request, session.stage.splats(request), 0.01)
    assert request.splats and drawn.shown == 1 and screen.shown == [] and session.wants(clock.now) == NEVER
    clock.now += 1
    session.camera_moved(np.array([0.0, 1.0, 0.0, 0.0]), np.array([0.2, 0.0, 1.0]), 0.4)
    assert session.wants(clock.now) == NEVER
    session.desk.set("jawOpen", 0.5)
    assert session.wants(clock.now) == 0
    assert not session.full_request().splats and session.full_request().width == 400  # films and pictures are the server's
    session.set_layer("Depth")
    assert not session.in_browser and session.wants(clock.now) == 0 and not draw_now(session, clock).splats and drawn.hidden == 1
    with pytest.raises(ValueError):
        session.set_drawn_by("nobody")


def test_a_page_that_comes_back_goes_on_where_it_was() -> None:
    old, clock, _ = make_session()
    old.transport.seek(50)
    old.desk.set("jawOpen", 0.5)
    old.set_mode("Wipe")
    old.head, old.background = (5.0, 0.0, 0.0), (1, 2, 3)
    session, _, _ = make_session()
    session.resume(old)
    before, after = old.full_request(), session.full_request()
    assert after == before and session.transport.bounds == (40, 88)


# Loop --------------------------------------------------------------------------------------------------------------


class Wisher:
    """Wants `count` pictures; remembers them."""

    def __init__(self, count: int) -> None:
        self.left, self.value, self.shown, self.failed, self.done = count, 0.0, [], [], threading.Event()

    def wants(self, now: float) -> float:
        return 0.0 if self.left else NEVER

    def take(self, now: float) -> Request:
        self.left -= 1
        return Request(16, 16, (0.0,) * 16, 0.4, time=self.value)

    def show(self, request: Request, picture: np.ndarray, seconds: float) -> None:
        self.shown.append(request)
        if not self.left:
            self.done.set()

    def fail(self, request: Request, error: Exception) -> None:
        self.failed.append(error)
        self.done.set()


def test_clients_take_turns_and_the_newest_wish_wins() -> None:
    stage = BallStage(seconds=0.01)
    order = []
    with RenderLoop(stage) as loop:
        a, b = Wisher(0), Wisher(0)
        for client in (a, b):
            client.show = lambda r, p, s, c=client, show=client.show: (order.append(c), show(r, p, s))  # type: ignore[method-assign]
            loop.add(client)
        a.left = b.left = 5
        loop.wake()
        assert a.done.wait(5) and b.done.wait(5)
        assert order[0] is not order[1] and order[1] is not order[2]
        a.done.clear()
        for value in range(100):  # far more wishes than pictures
            a.value = float(value)
        a.left = 1
        loop.wake()
        assert a.done.wait(5) and a.shown[-1].time == 99.0 and len(a.shown) == 6


def test_a_failing_stage_or_client_does_not_stop_the_loop() -> None:
    stage = BallStage()
    with RenderLoop(stage) as loop:
        stage.fail = "out of memory"
        client = Wisher(1)
        loop.add(client)
        assert client.done.wait(5) and "out of memory" in str(client.failed[0])
        stage.fail = None
        gone = Wisher(1)
        gone.show = lambda *_: (_ for _ in ()).throw(RuntimeError("closed"))  # type: ignore[method-assign]
        loop.add(gone)
        wishless = Wisher(1)
        wishless.take = lambda now: (_ for _ in ()).throw(RuntimeError("no camera yet"))  # type: ignore[method-assign]
        loop.add(wishless)
        other = Wisher(2)
        loop.add(other)
        assert other.done.wait(5) and len(other.shown) == 2


def test_background_tasks_run_when_nobody_waits() -> None:
    done = threading.Event()

    def task():
        for _ in range(3):
            yield
        done.set()

    with RenderLoop(BallStage()) as loop:
        loop.background(task())
        assert done.wait(5)
