"""The demo's real stages after tracking, on the toy person: trained, measured, filmed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avatars.commands import Console
from avatars.commands.pipeline import Job
from avatars.commands.work import azimuths, film, film_frames, held_out, measure, recipe, train, whole
from avatars.errors import AvatarError
from avatars.sequence import TrackedSequence
from avatars.train_config import TrainConfig

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def job(tiny_tracked: TrackedSequence, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A capture that is tracked already, and a training that takes seconds."""
    out = tmp_path_factory.mktemp("demo")
    shutil.copytree(tiny_tracked.folder, out / "tracked")
    (out / "tracked" / "audio").mkdir(exist_ok=True)
    shutil.copy(toy_folder / "audio" / "ONE.wav", out / "tracked" / "audio" / "TWO.wav")
    (out / "tracked" / "ATTRIBUTION.md").write_text("Someone, CC BY")
    config = out / "train.toml"
    config.write_text("minutes = 0.0\nsteps = 8\ngaussians = 300\nviews = 2\nheld_out_cameras = ['d']\n[deform]\nbases = 2\nhidden = 0\n")
    return Job(Path("nowhere"), out, train_config=config)


def test_train_measure_and_film(job: Job) -> None:
    console, cpu = Console(progress=lambda *_: None), torch.device("cpu")
    figures = train(job, console, cpu)
    assert figures["steps"] == 8 and figures["gaussians"] > 50
    assert (job.avatar / "ATTRIBUTION.md").read_text() == "Someone, CC BY", "it goes along"
    headline = measure(job, console, cpu)
    report = json.loads((job.out / "report.json").read_text())
    assert report["held_out"] == {"cameras": ["d"], "sequences": ["TWO"]}, "the sequence with sound"
    assert headline["novel_view_db"] == pytest.approx(report["novel_view"]["foreground"]["psnr"], abs=0.01) and headline["fps"] > 0
    assert (job.out / "report.html").stat().st_size > 1000
    assert film(job, console, cpu) == {"sequence": "TWO", "frames": 2}
    with av.open(str(job.film)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        sound = container.streams.audio[0]
        assert float(sound.duration * sound.time_base) == pytest.approx(2 / 24, abs=0.07)
    assert len(frames) == 2 and frames[0].shape == (2 * 56 + 28, 2 * 2 * 48 + 4, 3)
    left, right = frames[0][:112, :96].astype(int), frames[0][:112, 100:].astype(int)
    assert left.std() > 20 and right.std() > 10, "the recording and the avatar are both there"
    assert train(job, console, cpu)["steps"] == 8, "a finished training is not repeated"


def test_what_was_deleted_or_damaged_since_is_noticed(job: Job, tmp_path: Path) -> None:
    console, cpu = Console(progress=lambda *_: None), torch.device("cpu")
    copy = replace(job, out=tmp_path / "copy")
    shutil.copytree(job.out, copy.out)
    train(copy, console, cpu)
    assert whole(copy, "track") and whole(copy, "train") and whole(copy, "film")
    content = (copy.avatar / "avatar.safetensors").read_bytes()
    (copy.avatar / "avatar.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not whole(copy, "train")
    assert train(copy, console, cpu)["steps"] == 8 and whole(copy, "train"), "mended from the checkpoint"
    assert (copy.avatar / "avatar.safetensors").read_bytes() == content
    (copy.tracked / "codes.npz").unlink()
    assert not whole(copy, "track")
    shutil.copy(job.tracked / "codes.npz", copy.tracked)
    shutil.rmtree(copy.tracked / "frames" / "ONE" / "a")
    assert not whole(copy, "track")
    (copy.avatar / "manifest.json").unlink()
    with pytest.raises(AvatarError, match=r"8 pictures of .*tracked are missing or empty, the first .*00000\.jpg\. Run the tracking again"):
        train(copy, console, cpu)


def test_what_is_held_out_when_nothing_is_said(tiny_tracked: TrackedSequence) -> None:
    assert azimuths(tiny_tracked) == pytest.approx([40, 12, 15, 46], abs=3)
    config = held_out(TrainConfig(), tiny_tracked, None, None)
    assert len(config.held_out_cameras) == 1 and config.held_out_cameras != ("b",) and config.held_out_sequences == ("TWO",)
    asked = held_out(TrainConfig(held_out_cameras=("a",)), tiny_tracked, None, ())
    assert asked.held_out_cameras == ("a",) and asked.held_out_sequences == ()
    assert held_out(TrainConfig(), tiny_tracked, (), ("ONE",)).held_out_cameras == ()


def test_the_recipe_fits_the_capture(tiny_tracked: TrackedSequence) -> None:
    from dataclasses import replace

    assert recipe(tiny_tracked).gaussians > recipe(tiny_tracked, small=True).gaussians
    assert recipe(replace(tiny_tracked, cameras=tiny_tracked.cameras[0])).sh_degree == 0


def test_the_film_shows_what_was_held_out(job: Job) -> None:
    from avatars.avatar import load_avatar
    from avatars.sequence import load_tracked

    avatar, tracked = load_avatar(job.avatar), load_tracked(job.tracked)
    assert film_frames(avatar, tracked, 30) == ([4, 5], "TWO", 0)
    assert film_frames(avatar, tracked, 0.04) == ([4], "TWO", 0)
