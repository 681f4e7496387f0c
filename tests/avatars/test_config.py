"""Configuration files are strict: what is unknown or of the wrong kind is one clear error, and what is saved reads back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from avatars.config import check_numbers, load_config, save_config, to_dict
from avatars.errors import ConfigError
from avatars.train_config import TrainConfig
from capture.track.config import TrackConfig


@dataclass(frozen=True)
class Rates:
    mean: float = 5e-3
    steps: int = 10


@dataclass(frozen=True)
class Schema:
    name: str = 'a "quoted" \\ name'
    rates: Rates = field(default_factory=Rates)
    mode: Literal["fast", "fine"] = "fast"
    cameras: tuple[str, ...] = ("1", "2")
    size: tuple[int, int] = (3, 4)
    weights: Path | None = None
    on: bool = True
    limit: int | float | None = None


def read(tmp_path: Path, text: str) -> Schema:
    path = tmp_path / "c.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(Schema, path)


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Schema()


def test_what_is_saved_reads_back(tmp_path: Path) -> None:
    config = Schema("tab\tline\n", Rates(1e-9, 3), "fine", (), (1, 2), Path("w.pt"), False, 2.5)
    save_config(config, tmp_path / "saved.toml")
    assert load_config(Schema, tmp_path / "saved.toml") == config
    assert "limit" not in to_dict(Schema())


def test_whole_numbers_are_good_floats(tmp_path: Path) -> None:
    assert read(tmp_path, "[rates]\nmean = 1").rates.mean == 1.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raets = 3", "Did you mean 'rates'"),
        ("[rates]\nstep = 3", "rates: unknown key 'step'"),
        ("[rates]\nsteps = 1.5", "steps must be int"),
        ("[rates]\nsteps = true", "steps must be int"),
        ('mode = "quick"', "'fast', 'fine'"),
        ("size = [1]", "must have 2 entries"),
        ("cameras = 3", "must be a list"),
        ("cameras = [3]", r"cameras\[0\] must be str"),
        ("rates = 3", "must be a table"),
        ("a = ", "not valid TOML"),
    ],
)
def test_mistakes_name_the_file_and_the_key(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        read(tmp_path, text)
    assert "c.toml" in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent.toml does not exist"):
        load_config(Schema, tmp_path / "absent.toml")


@dataclass(frozen=True)
class Bounded:
    share: float = 0.5
    count: int = 3
    flag: bool = False
    name: str = "x"

    def __post_init__(self) -> None:
        check_numbers(self, positive=("count",), most={"share": 1})


@pytest.mark.parametrize(("text", "says"), [
    ("share = -0.1", "share must be 0 or more and at most 1, got -0.1"), ("share = 1.5", "at most 1"), ("share = nan", "got nan"),
    ("share = inf", "got inf"), ("count = 0", "count must be more than 0, got 0"),
])  # fmt: skip
def test_impossible_numbers_name_the_file_and_the_key(tmp_path: Path, text: str, says: str) -> None:
    Bounded(0, 1), Bounded(1, 1)
    (tmp_path / "c.toml").write_text(text + "\n")
    with pytest.raises(ConfigError, match=f"c.toml: .*{says}"):
        load_config(Bounded, tmp_path / "c.toml")


@pytest.mark.parametrize(
    "text", ["seed = -1", "cache_megabytes = -5", "half_until = 2.0", "views = 0", "[deform]\nbases = 0", "color_rate = -1.0"]
)
def test_impossible_trainings(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text + "\n")
    with pytest.raises(ConfigError, match=r"c\.toml.* must be "):
        load_config(TrainConfig, tmp_path / "c.toml")


@pytest.mark.parametrize(
    "text", ["workers = 0", "[motion]\npoints = 0", "[motion]\nrounds = -1", "[landmarks]\npasses = 9", "[priors]\njaw = 0.0"]
)
def test_impossible_trackings(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text + "\n")
    with pytest.raises(ConfigError, match=r"c\.toml.* must be "):
        load_config(TrackConfig, tmp_path / "c.toml")
