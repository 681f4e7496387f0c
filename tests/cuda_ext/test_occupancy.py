"""What `python -m cuda_ext.occupancy` reads from the compiler's words, and what it concludes."""

from __future__ import annotations

import shutil

import pytest

from cuda_ext import occupancy

PTX = """
.visible .entry _ZN2av13raster_kernelILi1ELi8ELb0ELb1EEEvNS_4GridE(
	.param .align 8 .b8 _ZN2av13raster_kernel_param_0[32]
)
.maxntid 256
{
.visible .entry _ZN2av16blend_sum_kernelEPKf(
	.param .u64 _ZN2av16blend_sum_kernelEPKf_param_0
)
{
"""
SAID = """
ptxas info    : Compiling entry function '_ZN2av13raster_kernelILi1ELi8ELb0ELb1EEEvNS_4GridE' for 'sm_90'
ptxas info    : Function properties for _ZN2av13raster_kernelILi1ELi8ELb0ELb1EEEvNS_4GridE
    32 bytes stack frame, 44 bytes spill stores, 36 bytes spill loads
ptxas info    : Used 46 registers, used 1 barriers, 32 bytes cumulative stack size, 12544 bytes smem
ptxas info    : Compiling entry function '_ZN2av16blend_sum_kernelEPKf' for 'sm_90'
ptxas info    : Function properties for _ZN2av16blend_sum_kernelEPKf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 29 registers, used 0 barriers
"""


def test_the_compilers_words_are_read():
    raster, total = occupancy.kernels_of(PTX, SAID, 90)
    assert raster == occupancy.Kernel("raster_kernel<1, 8, 0, 1>", 90, 256, 46, 80, 12544)
    assert total == occupancy.Kernel("blend_sum_kernel", 90, 0, 29, 0, 0)
    text = occupancy.table([raster, total])
    assert "raster_kernel<1, 8, 0, 1>" in text and " 80 " in text and "62%" in text


@pytest.mark.parametrize(
    "architecture, threads, registers, shared, share, limit",
    [
        (90, 256, 32, 0, 1.0, "threads"),
        (90, 128, 168, 24576, 384 / 2048, "registers"),  # 3 blocks of 4 warps of 5,376 registers
        (80, 256, 48, 42232, 3 * 256 / 2048, "shared memory"),
        (75, 256, 54, 42232, 256 / 1024, "shared memory"),
        (86, 32, 20, 0, 16 * 32 / 1536, "blocks"),
    ],
)
def test_occupancy(architecture, threads, registers, shared, share, limit):
    found, why = occupancy.Kernel("k", architecture, threads, registers, 0, shared).occupancy()
    assert found == pytest.approx(share) and why == limit


def test_without_a_compiler_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert occupancy.main([]) == 1 and "needs nvcc" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_a_kernel_is_compiled(capsys):
    assert occupancy.main(["bind.cu", "--architectures", "90"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("bind_backward_kernel ") for line in lines)
