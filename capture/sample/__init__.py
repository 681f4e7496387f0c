"""The small capture that the quick start runs on: `SAMPLE` is its folder, in the same layout as any other capture."""

from pathlib import Path

SAMPLE = Path(__file__).resolve().parent / "studio"
