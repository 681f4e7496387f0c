"""The command line as people meet it: help that teaches, errors that say what to do, and the demo's stages."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avatars import __version__, commands
from avatars.__main__ import main
from avatars.commands import COMMANDS, Console, parse_color
from avatars.commands.demo import Demo, run_pipeline
from avatars.commands.pipeline import STEPS, Job, Workshop, choose_cameras, choose_sequences
from avatars.errors import AvatarError, CaptureError, UserError
from avatars.stages import Stage, fingerprint, run_stage


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "avatars", *arguments], capture_output=True, text=True, timeout=60)


# Help


def test_the_front_page_lists_every_command_and_is_quick(capsys: pytest.CaptureFixture) -> None:
    assert main([]) == 0
    page = capsys.readouterr().out
    for name, summary in COMMANDS.items():
        assert name in page and summary in page
    assert page.count("\n  avatars ") >= 3, "examples"
    assert main(["--help"]) == 0 and capsys.readouterr().out == page
    assert main(["--version"]) == 0 and __version__ in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_help_teaches_by_example(name: str, capsys: pytest.CaptureFixture) -> None:
    assert main([name, "--help"]) == 0
    page = capsys.readouterr().out
    examples = page[page.index("examples:") :].splitlines()[1:]
    lines = [e for e in examples if e.startswith("  avatars ")]
    assert 2 <= len(lines) <= 3 and all(line.startswith(f"  avatars {name}") for line in lines)
    assert "default" in page and f"usage: avatars {name}" in page


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_explained_and_the_examples_parse(name: str) -> None:
    import importlib
    import shlex

    from avatars.__main__ import _parse

    module = importlib.import_module(f"avatars.commands.{name}")
    for _, line in module.EXAMPLES:
        arguments = shlex.split(line)[2:]
        if "--config" in arguments:  # a file that the reader has
            at = arguments.index("--config")
            del arguments[at : at + 2]
        assert _parse(name, module, arguments) is not None
    assert module.command().__doc__


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["track", "--help"], ["render", "--help"]])
def test_help_does_not_wait_for_torch(arguments: list[str]) -> None:
    code = f"import sys\nfrom avatars.__main__ import main\nmain({arguments!r})\nsys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    started = time.process_time()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, "help imported torch: it must start in less than a second"
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("line", "name", "rest"),
    [
        ("check x", "check", ["x"]),
        ("--out demo check x", "check", ["--out", "demo", "x"]),
        ("--no-view demo", "demo", ["--no-view"]),
        ("--device cpu train x --out eval", "train", ["--device", "cpu", "x", "--out", "eval"]),
        ("export render", "export", ["render"]),
        ("rendr --out demo", None, ["rendr", "--out", "demo"]),
        ("rendr demo", None, ["rendr", "demo"]),
    ],
)
def test_flags_may_stand_before_the_command(line: str, name: str | None, rest: list[str]) -> None:
    from avatars.__main__ import _split

    assert _split(line.split()) == (name, rest)


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rendr"], "no command 'rendr'. Did you mean `avatars render`?"),
        (["--device", "cpu", "trian"], "no command 'trian'. Did you mean `avatars train`?"),
        (["xyzzy"], "Commands: demo, check"),
        (["--device"], "needs a command"),
        (["render"], "missing AVATAR"),
        (["drive"], "missing AVATAR, --codes PATH"),
        (["render", "somewhere", "--otu", "x.png"], "Did you mean --out PATH"),
        (["render", "somewhere", "--fps", "many"], "--fps"),
        (["render", "somewhere", "--device", "tpu"], "'auto', 'cpu', 'cuda'"),
        (["view", "nowhere"], "nowhere does not exist"),
        (["train", "nowhere"], "nowhere does not exist"),
        (["eval", "nowhere"], "nowhere does not exist"),
        (["check", "nowhere"], "nowhere does not exist"),
        (["track", "nowhere"], "nowhere does not exist"),
        (["track", "nowhere", "--head", "nohead"], "--head nohead does not exist"),
        (["demo", "--capture", "nowhere"], "--capture nowhere does not exist"),
        (["demo", "--minutes", "-1"], "--minutes"),
        (["demo", "--minutes", "nan"], "--minutes"),
        (["demo", "--port", "99999"], "--port 99999: give a number between 0 and 65535"),
        (["demo", "--held-out-cameras", "7"], "The camera '7' is to be held out, but"),
        (["demo", "--held-out-sequences", "X"], "The sequence 'X' is to be held out, but"),
        (["check", "caf\udce9.mp4"], "not valid UTF-8. Rename"),
        (["drive", "nowhere", "--codes", "x.csv", "--start", "-3"], "--start -3: give a number between 0 and"),
        (["drive", "nowhere", "--codes", "x.csv", "--end", "nan"], "--end nan must come after"),
        (["render", "nowhere", "--out", "a.mp4", "--fps", "-5"], "--fps -5: give a number between 1 and 240"),
        (["render", "nowhere", "--out", "a.mp4", "--seconds", "nan"], "--seconds nan: give a number"),
        (["train", "nowhere", "--steps", "0", "--minutes", "0"], "minutes or steps must be positive"),
    ],
)
def test_errors_are_one_line_with_a_remedy(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err and not captured.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (IsADirectoryError(21, "Is a directory", "a.png"), "a.png cannot be read or written: Is a directory. Check the path"),
        (FileExistsError(17, "File exists", "take.csv"), "take.csv cannot be read or written: File exists."),
        (PermissionError(13, "Permission denied", "/root/x"), "/root/x may not be read or written."),
        (OSError(28, "No space left on device", "out/x"), "The disk is full while writing out/x: "),
        (OSError(28, "No space left on device"), "The disk is full. Free some space"),
    ],
)
def test_what_the_file_system_refuses_is_one_line(
    error: OSError, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refused(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Demo, "run", refused)
    assert main(["demo"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1


def test_a_bug_is_not_taken_for_a_mistake_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError("no file has to do with it")

    monkeypatch.setattr(Demo, "run", broken)
    with pytest.raises(OSError, match="no file"):
        main(["demo"])


def test_a_file_in_the_place_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "avatar.ply").write_text("ply")
    assert main(["view", str(tmp_path / "avatar.ply")]) == 2
    assert "is a file, not a folder" in capsys.readouterr().err


def test_the_config_file_is_strict_and_flags_win(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import importlib

    from avatars.__main__ import _parse

    module = importlib.import_module("avatars.commands.train")
    config = tmp_path / "fast.toml"
    config.write_text("minutes = 2.0\ngaussians = 1234\n[deform]\nbases = 7\n")
    for arguments in (["x", "--config", str(config), "--minutes", "3"], ["--minutes", "3", f"--config={config}", "x"]):
        train = _parse("train", module, arguments)
        assert (train.settings.minutes, train.settings.gaussians, train.settings.deform.bases) == (3.0, 1234, 7)
    config.write_text("gaussian = 1234\n")
    assert main(["train", "x", "--config", str(config)]) == 2
    assert "unknown key 'gaussian'. Did you mean 'gaussians'?" in capsys.readouterr().err
    assert main(["track", "x", "--config", str(tmp_path / "none.toml")]) == 2
    assert "none.toml does not exist" in capsys.readouterr().err


def test_interrupts_say_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Demo, "run", interrupted)
    assert main(["demo", "--out", "my folder"]) == 130
    assert "avatars demo --out 'my folder'" in capsys.readouterr().err


def test_a_full_disk_and_a_closed_door_are_explained(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for error, message in (
        (OSError(28, "No space left", "out/a"), "disk is full"),
        (PermissionError(13, "denied", "/root/a"), "may not be"),
    ):

        def failing(*_: Any, error: OSError = error) -> None:
            raise error

        monkeypatch.setattr(Demo, "run", failing)
        assert main(["demo"]) == 2
        assert message in capsys.readouterr().err


def test_cuda_that_is_not_there() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match="--device cpu"):
        commands.choose_device("cuda")
    assert str(commands.choose_device("auto")) == "cpu"


def test_colours() -> None:
    assert (
        parse_color("white") == (1, 1, 1)
        and parse_color("#ff8000") == pytest.approx((1, 128 / 255, 0))
        and parse_color("0.1,0.2,1") == (0.1, 0.2, 1)
    )
    for text in ("", "#ff80", "1,2,3", "a,b,c", "0.1,0.2"):
        with pytest.raises(UserError):
            parse_color(text)


def test_through_the_shell() -> None:
    result = run("chek")
    assert result.returncode == 2 and result.stderr.strip().endswith("See avatars --help.") and not result.stdout


# The demo's stages, with fakes for the work


class Fakes:
    """Stages that write what the real ones write, and count."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failing: dict[str, BaseException] = {}

    def workshop(self) -> Workshop:
        return Workshop(*(self._stage(s.name, s.outputs) for s in STEPS))

    def _stage(self, name: str, outputs: Callable[[Job], tuple[Path, ...]]) -> Callable[[Job], dict]:
        def work(job: Job) -> dict:
            if name in self.failing:
                raise self.failing[name]
            self.done.append(name)
            for path in outputs(job):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{name} of {job.capture} in {job.minutes}")
            return {"figure": 1.5}

        return work


ALL = ["check", "track", "train", "eval", "film"]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "take" / "sequences").mkdir(parents=True)
    (tmp_path / "take" / "sequences" / "cam.mp4").write_bytes(b"video" * 1000)
    return Job(tmp_path / "take", tmp_path / "out")


def go(job: Job, fakes: Fakes, console: Console | None = None) -> list[str]:
    before = len(fakes.done)
    run_pipeline(job, fakes.workshop(), console or Console())
    return fakes.done[before:]


def test_all_stages_once_then_none(job: Job, capsys: pytest.CaptureFixture) -> None:
    fakes = Fakes()
    assert go(job, fakes) == ALL
    assert go(job, fakes) == []
    text = capsys.readouterr().out
    assert (
        "[5/5] Filming" in text
        and "finished before" in text
        and f"avatars view {job.avatar}" in text
        and str(job.out / "report.html") in text
    )
    manifest = json.loads((job.out / "stages" / "train.json").read_text())
    assert manifest["stage"] == "train" and manifest["figures"] == {"figure": 1.5} and manifest["outputs"] == ["avatar/manifest.json"]


@pytest.mark.parametrize("stage", ALL)
def test_a_failed_stage_is_taken_up_again_without_repeating_the_others(job: Job, stage: str) -> None:
    for error in (CaptureError("broken"), KeyboardInterrupt(), RuntimeError("bug")):
        fakes = Fakes()
        for folder in ("stages", "tracked", "avatar"):
            import shutil

            shutil.rmtree(job.out / folder, ignore_errors=True)
        fakes.failing = {stage: error}
        with pytest.raises(type(error)):
            go(job, fakes)
        at = ALL.index(stage)
        assert fakes.done == ALL[:at] and not (job.out / "stages" / f"{stage}.json").exists()
        fakes.failing = {}
        assert go(job, fakes) == ALL[at:]


def test_changes_repeat_what_depends_on_them(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes()
    go(job, fakes)
    newer = tmp_path / "default.npz"
    newer.write_bytes(b"another default head")
    monkeypatch.setattr("avatars.commands.pipeline.DEFAULT_HEAD", newer)
    assert go(job, fakes)[0] == "track"
    longer = Job(job.capture, job.out, minutes=9)
    assert go(longer, fakes) == ["train", "eval", "film"]
    (job.avatar / "manifest.json").unlink()
    assert go(longer, fakes)[0] == "train"
    (job.capture / "sequences" / "cam.mp4").write_bytes(b"other" * 1000)
    assert go(longer, fakes)[:2] == ["check", "track"]
    config = tmp_path / "track.toml"
    config.write_text("workers = 1\n")
    changed = Job(job.capture, job.out, minutes=9, track_config=config)
    assert go(changed, fakes)[0] == "track"
    config.write_text("workers = 3\n")
    assert go(changed, fakes)[0] == "track"


def test_a_damaged_or_foreign_manifest_repeats_its_stage(job: Job) -> None:
    fakes = Fakes()
    go(job, fakes)
    for text in ("{", "[]", '{"kind": "something else"}'):
        (job.out / "stages" / "film.json").write_text(text)
        assert go(job, fakes) == ["film"]


def test_a_finished_stage_whose_result_was_damaged_is_repeated(job: Job) -> None:
    fakes = Fakes()
    go(job, fakes)
    damaged = {"track"}
    fakes.workshop = lambda: replace(Fakes.workshop(fakes), whole=lambda job, stage: stage not in damaged)  # type: ignore[method-assign]
    assert go(job, fakes) == ["track"], "it left the same as before, so nothing follows"
    damaged.clear()
    assert go(job, fakes) == []


def test_the_demo_refuses_settings_before_the_first_stage(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("gausians = 3\nworkers = 0\n")
    for flag in ("--track-config", "--train-config", "--head"):
        assert main(["demo", "--no-view", "--out", str(tmp_path / "out"), flag, str(wrong)]) == 2
        captured = capsys.readouterr()
        assert "wrong.toml" in captured.err and not captured.out and not (tmp_path / "out").exists()


def test_two_demos_do_not_work_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from avatars.files import claimed

    with claimed(tmp_path / "out"):
        assert main(["demo", "--no-view", "--out", str(tmp_path / "out")]) == 2
    assert f"Another process is working in {tmp_path / 'out'}" in capsys.readouterr().err


def test_a_stage_that_leaves_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AvatarError, match="ended without writing"):
        run_stage(tmp_path, Stage("x", "key", (tmp_path / "nothing",), dict))
    assert not (tmp_path / "stages").exists()


def test_fingerprints_notice_changes_in_small_and_large_files(tmp_path: Path) -> None:
    folder = tmp_path / "take"
    folder.mkdir()
    big = bytearray(3 << 20)
    (folder / "a.mp4").write_bytes(big)
    (folder / "b.json").write_text("{}")
    seen = {fingerprint(folder)}
    big[-1] = 1
    (folder / "a.mp4").write_bytes(big)
    seen.add(fingerprint(folder))
    (folder / "b.json").write_text("[]")
    seen.add(fingerprint(folder))
    (folder / "b.json").rename(folder / "c.json")
    seen.add(fingerprint(folder))
    assert len(seen) == 4 and fingerprint(folder) in seen
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text("x")
    assert fingerprint(folder) in seen, "hidden files are not the capture"


def test_what_is_held_out() -> None:
    angles = [abs(-70 + 140 * i / 15) for i in range(16)]
    chosen = choose_cameras(angles)
    assert len(chosen) == 2 and all(5 < angles[i] < 60 for i in chosen)
    assert len(choose_cameras(angles[:5])) == 1 and choose_cameras([0.0, 10.0]) == []
    assert choose_sequences(["EXP-1", "SEN-1", "EMO-1"], ["SEN-1"]) == ("SEN-1",)
    assert choose_sequences(["A", "B"], []) == ("B",) and choose_sequences(["A"], ["A"]) == ()


def test_the_sample_is_what_the_demo_takes() -> None:
    job = Demo(out=Path("somewhere")).job()
    assert job.capture.is_dir() and job.minutes > 0 and job.tracked == Path("somewhere/tracked")


def _report(severity: str) -> Any:
    from capture.findings import Finding
    from capture.quality import CheckReport

    return CheckReport("take", (Finding(severity, "cam_7.mp4", "is cut off after 12 frames.", "Copy it again."),), {"cameras": 2}, 0.1)


@pytest.mark.parametrize(("severity", "code"), [("error", 2), ("warning", 0)])
def test_check_tells_and_stops_the_demo(
    severity: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import torch

    from avatars.commands.work import workshop
    from capture.sample import SAMPLE

    monkeypatch.setattr("capture.quality.check_capture", lambda capture, progress: _report(severity))
    assert main(["check", str(SAMPLE), "--out", str(tmp_path / "found")]) == code
    text = capsys.readouterr().out
    assert "cam_7.mp4" in text and "Copy it again." in text and ("next: avatars track" in text) == (code == 0)
    assert json.loads((tmp_path / "found" / "check.json").read_text())["ok"] == (code == 0)
    job = Job(SAMPLE, tmp_path / "out")
    check = workshop(Console(), torch.device("cpu")).check
    if code == 0:
        assert check(job) == {"warnings": 1}
    else:
        with pytest.raises(CaptureError, match="cam_7.mp4: is cut off after 12 frames. Copy it again."):
            check(job)
    assert (tmp_path / "out" / "check.json").exists(), "what was found is there to read either way"


def test_track_and_view_and_bench_get_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from types import SimpleNamespace

    import capture.track.pipeline
    import cuda_ext.bench
    import viewer.app
    from capture.sample import SAMPLE

    asked: dict[str, Any] = {}

    def track(opened: Any, out: Path, head: Any, settings: Any, progress: Any) -> Any:
        asked["track"] = (opened.camera_names, opened.sequences, out, head, settings.motion.rounds)
        return SimpleNamespace(quality={"landmark_px": 1.5}, frame_count=32, cameras=[1, 2])

    monkeypatch.setattr(capture.track.pipeline, "track", track)
    cameras = ["100000009", "100000004"]
    out = tmp_path / "tracked take"
    assert main(["track", str(SAMPLE), "--cameras", *cameras, "--sequences", "EMO-1", "--motion.rounds", "1", "--out", str(out)]) == 0
    assert asked["track"] == (tuple(cameras), ("EMO-1",), out, None, 1)
    assert f"next: avatars train '{out}'" in capsys.readouterr().out

    monkeypatch.setattr(viewer.app, "serve", lambda *a, **k: asked.update(view=(a, k["host"], k["port"], k["open_browser"])))
    assert main(["view", str(tmp_path), "--port", "81", "--no-browser"]) == 0
    assert asked["view"] == ((tmp_path, None), "127.0.0.1", 81, False)

    monkeypatch.setattr(cuda_ext.bench, "main", lambda arguments: asked.update(bench=arguments) or 1)
    assert main(["bench", "--quick", "--json", "b.json"]) == 1
    assert asked["bench"] == ["--json", "b.json", "--quick"]
