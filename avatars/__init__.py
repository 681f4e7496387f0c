"""Photoreal, animatable head avatars from multi-view captures."""

import os

# torch's OpenMP threads spin for milliseconds after each operation and take the cores from the kernels' own threads: a training step on
# two busy cores costs 27 ms of CPU without that and 60-140 ms with it. Read once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
