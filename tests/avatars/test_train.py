"""Training: it learns, resumes exactly, saves what loads, and says what is wrong."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from avatars import deform
from avatars.avatar import load_avatar, read_tensors, write_tensors
from avatars.config import load_config, save_config
from avatars.errors import AvatarError, ConfigError, UserError
from avatars.evaluate import EvalConfig, evaluate
from avatars.files import write_json
from avatars.report import camera_levels, frame_curve, heat, round_ticks, write_report
from avatars.seal import seal
from avatars.sequence import TrackedSequence
from avatars.train import TrainConfig, split_of, train

SHORT = TrainConfig(
    minutes=0, steps=12, gaussians=320, views=2, refine_every=4, deform_start=0.2, held_out_cameras=("b",),
    held_out_sequences=("TWO",), deform=deform.DeformSettings(bases=3, hidden=8), cache_megabytes=10,
)  # fmt: skip


def _same(a: Path, b: Path) -> None:
    one, two = (read_tensors(f / "avatar.safetensors", "") for f in (a, b))
    assert one.keys() == two.keys()
    for key in one:
        assert torch.equal(one[key], two[key]), key


@pytest.fixture(scope="module")
def trained(tiny_tracked: TrackedSequence, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An avatar after SHORT."""
    out = tmp_path_factory.mktemp("trained") / "avatar"
    events = list(train(tiny_tracked, SHORT, out))
    assert [e.kind for e in events][0] == "start" and events[-1].kind == "done"
    assert {"refine", "step"} <= {e.kind for e in events}
    assert events[-1].step == 12 and events[-1].fraction == 1 and events[-1].left == 0
    return out


def test_overfits_one_frame(tiny_tracked: TrackedSequence, tmp_path: Path) -> None:
    single = TrainConfig(
        minutes=0, steps=200, gaussians=700, views=4, refine_every=20, held_out_sequences=("TWO",), held_out_last=5,
        deformation="binding", cache_megabytes=10, color_rate=0.02,
    )  # fmt: skip
    events = list(train(tiny_tracked, single, tmp_path / "one"))
    assert events[-1].psnr > 26 and events[-1].psnr > events[1].psnr + 2


def test_resume_equals_uninterrupted(tiny_tracked: TrackedSequence, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "resumed"
    broken = train(tiny_tracked, replace(SHORT, checkpoint_seconds=0.0), out)
    for event in broken:
        if event.kind == "checkpoint" and event.step == 7:
            break
    broken.close()
    assert not (out / "manifest.json").exists()
    events = list(train(tiny_tracked, replace(SHORT, checkpoint_seconds=1e9), out))
    assert events[0].step == 7
    _same(trained, out)


def test_killed_training_resumes(tiny_tracked: TrackedSequence, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    program = (
        "import sys\nfrom avatars.config import load_config\nfrom avatars.sequence import load_tracked\nfrom avatars.train import TrainConfig, train\n"
        "for e in train(load_tracked(sys.argv[1]), load_config(TrainConfig, sys.argv[2]), sys.argv[3]): pass\n"
    )
    save_config(replace(SHORT, checkpoint_seconds=0.0), tmp_path / "short.toml")
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2]), OMP_NUM_THREADS="1")
    arguments = [str(tiny_tracked.folder), str(tmp_path / "short.toml"), str(out)]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], env=environment)
    deadline = time.monotonic() + 60
    while not (out / "checkpoint.safetensors").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (out / "checkpoint.safetensors").exists()
    list(train(tiny_tracked, SHORT, out))
    _same(trained, out)


def test_finished_training_is_not_repeated(tiny_tracked: TrackedSequence, trained: Path) -> None:
    before = (trained / "avatar.safetensors").stat().st_mtime_ns
    events = list(train(tiny_tracked, SHORT, trained))
    assert [e.kind for e in events] == ["done"] and events[0].step == 12
    assert (trained / "avatar.safetensors").stat().st_mtime_ns == before


def test_other_settings_train_again(tiny_tracked: TrackedSequence, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    first = train(tiny_tracked, replace(SHORT, steps=2, checkpoint_seconds=0.0), out)
    list(first)
    (out / "events.jsonl").write_text('{"step": 900}\n')
    events = list(train(tiny_tracked, replace(SHORT, steps=3), out))
    assert events[0].kind == "start" and events[0].step == 0
    assert "900" not in (out / "events.jsonl").read_text()  # the curves of the report are of one training


def test_resolved_config_lies_beside_the_result(trained: Path) -> None:
    assert load_config(TrainConfig, trained / "train.toml") == SHORT
    records = [json.loads(line) for line in (trained / "events.jsonl").read_text().splitlines()]
    assert records and all(r["gaussians"] > 0 for r in records)


def test_half_written_checkpoint_is_named(tiny_tracked: TrackedSequence, tmp_path: Path) -> None:
    out = tmp_path / "half"
    broken = train(tiny_tracked, replace(SHORT, checkpoint_seconds=0.0), out)
    list(itertools.islice(broken, 2))
    broken.close()
    path = out / "checkpoint.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(AvatarError, match=r"checkpoint\.safetensors is damaged.*Delete"):
        list(train(tiny_tracked, SHORT, out))
    for at in (len(content) // 4, len(content) // 2, len(content) - 3, content.index(b"elapsed") + 12):  # numbers, which no parser checks
        flipped = bytearray(content)
        flipped[at] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(AvatarError, match=r"checkpoint\.safetensors is damaged: its checksum is not that of its content\. Delete"):
            list(train(tiny_tracked, replace(SHORT, checkpoint_seconds=0.0), out))
    path.write_bytes(content)
    assert list(train(tiny_tracked, replace(SHORT, checkpoint_seconds=0.0), out))[-1].kind == "done"


def test_full_disk_is_named_and_loses_nothing(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch
    from safetensors import SafetensorError

    def full(*_args, **_options) -> None:
        raise SafetensorError('Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })')

    write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(2)})
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode  # others may read it too
    (tmp_path / "plain").unlink()
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(
        UserError, match=r"disk is full while writing .*a\.safetensors: .* left on the disk at /.*, about 24\.0 MB are needed"
    ):
        write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(6_000_000)})
    with pytest.raises(UserError, match=r"disk is full.*a\.safetensors"):
        write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)})
    assert read_tensors(tmp_path / "a.safetensors", "")["x"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_under_the_curves_is_named(tiny_tracked: TrackedSequence, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"disk is full while writing .*events\.jsonl"):
        list(train(tiny_tracked, SHORT, tmp_path))


def test_a_full_disk_leaves_the_avatar_that_was_there(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    folder = tmp_path / "avatar"
    shutil.copytree(trained, folder)
    before = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    avatar = load_avatar(folder)

    def full(*_args, **_options) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)  # after the tensors, before the manifest
    with pytest.raises(UserError, match="disk is full") as caught:
        replace(avatar, provenance={"other": 1}).save(folder)
    assert f"writing {folder}: " in str(caught.value) and "saving" not in str(caught.value)
    assert {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    monkeypatch.undo()
    (folder / ".saving-of-a-kill").mkdir()
    replace(avatar, provenance={"other": 1}).save(folder)
    assert load_avatar(folder).provenance == {"other": 1} and not list(folder.glob(".saving*"))


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".."])
def test_names_that_lead_out_of_the_folder_are_refused(trained: Path, tmp_path: Path, name: str) -> None:
    import shutil

    folder = tmp_path / "avatar"
    shutil.copytree(trained, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["segments"][0][0] = name
    write_json(folder / "manifest.json", seal(manifest, folder, manifest["files"]))
    with pytest.raises(AvatarError, match="cannot be the name of a file"):
        load_avatar(folder)


@pytest.mark.parametrize("name", deform.names())
def test_every_deformation_trains(tiny_tracked: TrackedSequence, tmp_path: Path, name: str) -> None:
    events = list(train(tiny_tracked, replace(SHORT, steps=3, deformation=name), tmp_path / name))
    assert events[-1].kind == "done"
    avatar = load_avatar(tmp_path / name)
    assert avatar.deformation == name and avatar.at(avatar.frame(0)).means.isfinite().all()


def test_half_resolution_and_minutes(tiny_tracked: TrackedSequence, tmp_path: Path) -> None:
    events = list(train(tiny_tracked, replace(SHORT, steps=0, minutes=0.02, half_until=0.5), tmp_path / "m"))
    assert events[-1].kind == "done" and events[-1].seconds >= 1.2


def test_held_out_names_must_exist(tiny_tracked: TrackedSequence, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'z' is held out.*a, b, c, d"):
        list(train(tiny_tracked, replace(SHORT, held_out_cameras=("z",)), tmp_path / "x"))
    with pytest.raises(ConfigError, match="Nothing is left"):
        split_of(tiny_tracked, ("a", "b", "c", "d"), ())
    split = split_of(tiny_tracked, ("a",), ("TWO",), last=3)
    assert split.frames.tolist() == [0, 1, 2] and split.cameras.tolist() == [False, True, True, True]


def test_bad_configurations_are_errors(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("gausians = 5\n")
    with pytest.raises(ConfigError, match="gaussians"):
        load_config(TrainConfig, tmp_path / "c.toml")
    (tmp_path / "c.toml").write_text("minutes = 0\nsteps = 0\n")
    with pytest.raises(ConfigError, match="minutes or steps"):
        load_config(TrainConfig, tmp_path / "c.toml")
    (tmp_path / "c.toml").write_text("[deform]\nbase = 3\n")
    with pytest.raises(ConfigError, match="bases"):
        load_config(TrainConfig, tmp_path / "c.toml")
    for wrong in (
        {"gaussians": 0},
        {"sh_degree": 4},
        {"initial": 0.0},
        {"minutes": float("nan")},
        {"minutes": float("inf")},
        {"minutes": -1.0},
    ):
        with pytest.raises(ValueError):
            replace(SHORT, **wrong)


def test_every_recipe_loads() -> None:
    folder = Path(__file__).parents[2] / "configs"
    recipes = [load_config(TrainConfig, path) for path in folder.glob("train*.toml")]
    assert len(recipes) >= 3 and all(recipe != TrainConfig() for recipe in recipes), "each differs from the defaults"


# the avatar that comes out


def test_save_and_load_round_trip(trained: Path, tmp_path: Path) -> None:
    avatar = load_avatar(trained)
    avatar.save(tmp_path / "copy")
    again = load_avatar(tmp_path / "copy")
    a, b = avatar.at(avatar.frame(2)), again.at(again.frame(2))
    for key in ("means", "quats", "scales", "opacities", "sh"):
        assert torch.equal(getattr(a, key), getattr(b, key))
    assert again.timeline.held_out_cameras == ("b",) and again.timeline.segment("TWO").start == 4
    assert again.megabytes > 0 and again.audio("ONE") is None
    with pytest.raises(AvatarError, match="ONE, TWO"):
        again.timeline.segment("THREE")
    with pytest.raises(ValueError, match="one frame"):
        again.at(again.timeline.codes)
    moved = again.to(dtype=torch.float64)
    assert moved.gaussians.means.dtype == torch.float64 and moved.gaussians.face_ids.dtype == torch.int64


def test_held_out_frames_keep_their_tracked_codes(trained: Path, tiny_tracked: TrackedSequence) -> None:
    codes = load_avatar(trained).timeline.codes
    assert torch.equal(codes.expression[4:], tiny_tracked.codes.expression[4:])
    drift = codes.expression[:4] - tiny_tracked.codes.expression[:4]
    assert drift.abs().max() > 1e-6 and drift.mean(0).abs().max() < 1e-6  # tuned, but not all alike


def _damage(folder: Path, what: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["checksum"], manifest["files"]
    if what == "version":
        manifest["version"] = 99
    elif what == "key":
        del manifest["fps"]
    elif what == "deformation":
        manifest["deformation"] = "wobble"
    elif what == "mixed":
        manifest["content_hash"] = "0" * 16
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if what == "missing":
        (folder / "avatar.safetensors").unlink()
    elif what == "cut":
        content = (folder / "avatar.safetensors").read_bytes()
        (folder / "avatar.safetensors").write_bytes(content[:-100])
    elif what == "json":
        (folder / "manifest.json").write_text("{")
    elif what == "head":
        np.savez(folder / "head.npz", a=np.zeros(3))
    elif what == "codes":
        (folder / "sequences.npz").write_bytes(b"PK")
    elif what == "unfinished":
        (folder / "manifest.json").unlink()


@pytest.mark.parametrize("name", ["manifest.json", "avatar.safetensors", "sequences.npz"])
def test_every_flipped_bit_of_an_avatar_is_noticed(trained: Path, tmp_path: Path, name: str) -> None:
    import shutil

    folder = tmp_path / "avatar"
    shutil.copytree(trained, folder)
    content = (folder / name).read_bytes()
    generator = np.random.default_rng(0)
    for at in generator.integers(0, len(content), 20):
        flipped = bytearray(content)
        flipped[at] ^= 1 << generator.integers(0, 8)
        (folder / name).write_bytes(flipped)
        with pytest.raises(AvatarError, match=str(folder)):
            load_avatar(folder)
    (folder / name).write_bytes(content)
    load_avatar(folder)


@pytest.mark.parametrize("what", ["version", "key", "deformation", "mixed", "missing", "cut", "json", "codes", "head", "unfinished"])
def test_damaged_folder_is_one_clear_error(trained: Path, tmp_path: Path, what: str) -> None:
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(trained, folder)
    _damage(folder, what)
    with pytest.raises(AvatarError) as caught:
        load_avatar(folder)
    assert str(folder) in str(caught.value)


# evaluation and the page


def test_evaluation_and_report(trained: Path, tiny_tracked: TrackedSequence, tmp_path: Path) -> None:
    avatar = load_avatar(trained)
    timed = replace(tiny_tracked, provenance={"seconds": {"landmarks": 2.5, "fit": 4}}, quality={"mesh_mm": 0.7})
    result = evaluate(avatar, timed, EvalConfig(examples=1))
    assert result.report["seconds"]["track"] == 6.5 and result.report["tracking"]["mesh_mm"] == 0.7
    for protocol in ("novel_view", "self_reenactment"):
        figures = result.report[protocol]
        for part in (figures, figures["foreground"], figures["mouth"], figures["eyes"]):
            assert part["psnr"] > 8 and -1 <= part["ssim"] <= 1
    assert result.report["novel_view"]["pictures"] == 4 and result.report["self_reenactment"]["pictures"] == 8
    assert {c["camera"] for c in result.curves["novel_view"]} == {"b"}
    assert {c["sequence"] for c in result.curves["self_reenactment"]} == {"TWO"}
    for key in ("tracking", "seconds", "render", "gaussians", "model_mb"):
        assert key in result.report
    page = write_report(result, tmp_path, trained / "events.jsonl")
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 6 and "<svg" in text and "http" not in text
    assert json.loads((tmp_path / "report.json").read_text())["gaussians"] == len(avatar.gaussians)


@pytest.mark.parametrize(("low", "high"), [(24.1, 39.3), (13000, 23087), (0.001, 0.0042), (-3, 7), (27.76, 27.82), (0, 1)])
def test_charts_have_round_ticks(low: float, high: float) -> None:
    ticks = round_ticks(low, high)
    assert 2 <= len(ticks) <= 6 and low <= ticks[0] and ticks[-1] <= high
    step = ticks[1] - ticks[0]
    assert round(step / 10 ** np.floor(np.log10(step) + 1e-9), 6) in (1, 2, 5)
    assert all(abs(t / step - round(t / step)) < 1e-6 for t in ticks)


def test_curves_show_time_and_not_which_camera_measured() -> None:
    records = [{"camera": "ab"[t % 2], "frame": t, "psnr.foreground": 30.0 - 4 * (t % 2) + 0.1 * (t // 2)} for t in range(8)]
    records.append({"camera": "c", "frame": 8, "psnr.foreground": float("nan")})
    levels = camera_levels(records)
    assert levels["a"] - levels["b"] == pytest.approx(4) and np.isnan(levels["c"])
    frames, curve = frame_curve(records, levels)
    assert (
        frames == list(range(8)) and max(np.abs(np.diff(curve))) < 0.11 and np.mean(curve) == pytest.approx((levels["a"] + levels["b"]) / 2)
    )
    assert frame_curve(records[-1:], {"c": float("nan")}) == ([], [])


def test_report_escapes_what_comes_from_outside(trained: Path, tiny_tracked: TrackedSequence, tmp_path: Path) -> None:
    result = evaluate(load_avatar(trained), tiny_tracked, EvalConfig(novel_views=1, reenactments=1, examples=1))
    evil = replace(result, report=result.report | {"capture": "<script>alert(1)</script>"})
    assert "<script>" not in write_report(evil, tmp_path).read_text()
    assert heat(torch.tensor([[0.0, 1.0]]).numpy()).tolist() == [[[0, 0, 0], [255, 255, 255]]]
