"""`avatars bench`: are the native kernels correct here, and how fast are they, alone and in a training step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avatars.commands import Console, check_number, existing_folder

EXAMPLES = (
    ("correctness first, then the table of times", "avatars bench"),
    ("a quick look, and the figures as a file", "avatars bench --quick --json bench.json"),
    ("what a step of training costs, part by part", "avatars bench --training --tracked out/demo/tracked --views 4"),
)


@dataclass(frozen=True)
class Bench:
    """Check the kernels against the reference, then measure them on a head-like scene; ratios are to plain torch in the same run."""

    json: Path | None = None
    """Also write the figures here."""
    quick: bool = False
    """Fewer sizes and repetitions."""
    training: bool = False
    """Measure whole steps of training instead, everything included: on a synthetic person at 256×256, unless `tracked` is given."""
    tracked: Path | None = None
    """With `training`: the tracked capture to step on."""
    gaussians: int = 20_000
    """With `training`: how many."""
    views: int = 1
    """With `training`: cameras per step."""
    threads: int = 2
    """With `training`: cores to use."""

    def run(self, console: Console) -> int:
        """Benchmark."""
        if self.training:
            return self._training(console)
        from cuda_ext import bench

        arguments = ["--json", str(self.json)] if self.json is not None else []
        return int(bench.main([*arguments, *(["--quick"] if self.quick else [])]) or 0)

    def _training(self, console: Console) -> int:
        from dataclasses import asdict

        from avatars import bench
        from avatars.files import write_json

        check_number("--gaussians", self.gaussians, 100, 1_000_000)
        check_number("--views", self.views, 1, 64)
        check_number("--threads", self.threads, 1, 64)
        if self.tracked is not None:
            existing_folder(self.tracked, "the tracked capture", "avatars track CAPTURE")
        figures = bench.gate()
        console.say("correct: " + ", ".join(f"{k} {v:.0e}" for k, v in figures.items()))
        times = bench.step_times(self.tracked, self.gaussians, self.views, self.threads, 60 if self.quick else 240)
        console.say(bench.table(times))
        if self.json is not None:
            write_json(self.json, {"gate": figures, "step": asdict(times)})
        return 0


def command() -> type:
    """The flags of `avatars bench`."""
    return Bench
