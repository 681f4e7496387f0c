"""Gaussian-splatting kernels for CPU and CUDA, with torch as their only dependency."""
