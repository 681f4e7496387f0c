"""Inside of the silence mediapipe's chatter is dropped; everything else arrives when it ends, and the standard error is itself again."""

from __future__ import annotations

import os

import pytest

from capture.silence import quiet

CHATTER = (
    b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n"
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    b"W0000 00:00:1763626231.104503   12345 inference_feedback_manager.cc:114] Feedback manager requires a model with a single signature\n"
    b"I0000 00:00:1763626231.104503   12345 gl_context.cc:369] GL version: 3.2\n"
    b"W20251120 08:10:31.048231 12345 landmark_projection_calculator.cc:186] Using NORM_RECT without IMAGE_DIMENSIONS\n"
)


def test_chatter_is_dropped_and_errors_arrive(capfd: pytest.CaptureFixture[str]) -> None:
    error = b"E0000 00:00:1763626231.104503   12345 calculator_graph.cc:928] the model could not be read\n"
    with pytest.raises(RuntimeError), quiet():
        os.write(2, CHATTER + error + b"decoding 3/5\rdecoding 4/5")
        assert capfd.readouterr().err == ""
        raise RuntimeError
    os.write(2, b"after")
    assert capfd.readouterr().err == error.decode() + "decoding 3/5\rdecoding 4/5after"


def test_threads_that_overlap_do_not_lose_the_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    first, second = quiet(), quiet()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)  # the first one in leaves first
    os.write(2, CHATTER + b"inside ")
    second.__exit__(None, None, None)
    os.write(2, b"after")
    assert capfd.readouterr().err == "inside after"
