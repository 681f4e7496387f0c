"""The command that finds a detector's landmarks on a head finds those that the default head ships with."""

from __future__ import annotations

from pathlib import Path

import pytest

from avatars.head import load_head
from capture.head_landmarks import add_landmarks, main


def test_detector_agrees_with_what_the_head_ships() -> None:
    pytest.importorskip("mediapipe")
    head = load_head()
    again = add_landmarks(head, people=0)
    both = again.landmarks["mediapipe"].valid & head.landmarks["mediapipe"].valid
    points = again.landmark_positions(head.template[None])[0] - head.landmark_positions(head.template[None])[0]
    assert both.sum() > 350
    assert points.norm(dim=1)[both].median() < 0.0025
    assert again.landmarks["ibug68"].face_ids.shape == (68,)


def test_faults_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main([str(tmp_path / "none.npz")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main([str(tmp_path), str(tmp_path / "out.txt")]) == 2
    assert "is no npz file" in capsys.readouterr().err
