"""`avatars bench`: are the native kernels correct here, and how fast are they."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avatars.commands import Console

EXAMPLES = (
    ("correctness first, then the table of times", "avatars bench"),
    ("a quick look, and the figures as a file", "avatars bench --quick --json bench.json"),
)


@dataclass(frozen=True)
class Bench:
    """Check the kernels against the reference, then measure them on a head-like scene; ratios are to plain torch in the same run."""

    json: Path | None = None
    """Also write the figures here."""
    quick: bool = False
    """Fewer sizes and repetitions."""

    def run(self, console: Console) -> int:
        """Benchmark."""
        from cuda_ext import bench

        arguments = ["--json", str(self.json)] if self.json is not None else []
        return int(bench.main([*arguments, *(["--quick"] if self.quick else [])]) or 0)


def command() -> type:
    """The flags of `avatars bench`."""
    return Bench
