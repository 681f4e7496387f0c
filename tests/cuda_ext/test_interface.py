"""The three statements of the interface agree: include/abi*.h, abi/, the library; include/semantics.h and reference/."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import cuda_ext
from cuda_ext import abi, library, ops, reference

INCLUDE = Path(cuda_ext.__file__).parent / "include"
SIZES = {"int64_t": 8, "int32_t": 4, "float": 4, "double": 8}


def header_text() -> str:
    return "".join(p.read_text() for p in sorted(INCLUDE.glob("abi*.h")))


def _structures() -> dict[str, list[tuple[str, str, int]]]:
    """name → (type, field, number of elements) of each field."""
    text = re.sub(r"//[^\n]*", "", header_text())
    found = {}
    for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\} \w+;", text, re.S):
        fields = [re.fullmatch(r"(.*?)\s*(\w+)(?:\[(\d+)\])?", f.strip(), re.S) for f in body.split(";") if f.strip()]
        found[name] = [(f[1], f[2], int(f[3] or 1)) for f in fields if f is not None]
    return found


def test_structures_mirror_the_header():
    header = _structures()
    assert set(header) == {s.__name__ for s in abi.STRUCTURES}
    for structure in abi.STRUCTURES:
        theirs = header[structure.__name__]
        assert [f[0] for f in structure._fields_] == [name for _, name, _ in theirs], structure.__name__
        for (name, mine), (kind, _, count) in zip([f[:2] for f in structure._fields_], theirs, strict=True):
            if "*" in kind or kind in SIZES:
                assert ctypes.sizeof(mine) == count * SIZES.get(kind, 8), f"{structure.__name__}.{name}"
            else:
                assert mine.__name__ == kind, f"{structure.__name__}.{name}"


def test_functions_mirror_the_header():
    declared = set(re.findall(r"^int(?:32|64)_t (av_\w+)\(", header_text(), re.M))
    assert declared - {"av_abi_version", "av_abi_size"} == set(abi.FUNCTIONS)


def test_constants_mirror_the_header():
    text = (INCLUDE / "semantics.h").read_text()
    values = {k: float(v) for k, v in re.findall(r"#define AV_(\w+) ([-+.\de]+?)f?(?:\s|$)", text)}
    names = "ALPHA_MAX ALPHA_MIN TRANSMITTANCE_MIN DET_MIN FRUSTUM_MARGIN DEPTH_ALPHA_MIN COORD_MAX COLOR_MAX SSIM_RADIUS SSIM_SIGMA SSIM_C1 SSIM_C2 "
    names += "TAU_MAX MARCH_STEPS"
    for name in names.split():
        assert getattr(reference, name) == pytest.approx(values[name], rel=1e-12), name


def test_the_cpu_library_is_native_here():
    assert ops.available()["cpu"].startswith("native"), ops.available()["cpu"]


def test_unknown_policy_is_refused(monkeypatch):
    monkeypatch.setenv("AVATARS_KERNELS", "quick")
    with pytest.raises(ValueError, match="auto, native or reference"):
        library.policy()


def test_a_missing_library_warns_once_and_native_insists(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "_FOLDER", tmp_path)
    library.open_library.cache_clear()
    library._warn_once.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="libavatars_cpu.*was not built.*g\\+\\+"):
            assert library.native("cpu", "av_splat_forward") is None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert library.native("cpu", "av_splat_forward") is None
        monkeypatch.setenv("AVATARS_KERNELS", "native")
        with pytest.raises(library.KernelError, match="was not built"):
            library.native("cpu", "av_splat_forward")
        (tmp_path / "libavatars_cpu.so").write_bytes(b"not a library")
        library.open_library.cache_clear()
        assert "cannot be loaded" in library.open_library("cpu")[1]
    finally:
        library.open_library.cache_clear()
        library._warn_once.cache_clear()


def test_reference_can_be_forced(monkeypatch):
    monkeypatch.setenv("AVATARS_KERNELS", "reference")
    a = torch.rand(1, 9, 8, 3)
    assert library.native("cpu", "av_ssim") is None
    assert ops.ssim(a, a) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("isa", ["base", "avx2"])
def test_older_instruction_sets_agree(isa):
    """The other tests run the best instruction set of the machine; this runs the narrower ones on one scene each."""
    script = """
import torch
from cuda_ext import ops, reference
from cuda_ext.bench_scenes import head_scene
print(ops.available()["cpu"])
scene = head_scene(300, 40, 33)
def run(s):
    leaves = [t.clone().requires_grad_() for t in s.tensors[:5]]
    out = ops.splat(*leaves, *s.tensors[5:], s.width, s.height)
    (out.color.square().sum() + out.depth.sum()).backward()
    return [out.color.detach(), *(t.grad for t in leaves)]
for a, b in zip(run(scene), run(scene.to(torch.float64))):
    assert (a - b).norm() < 1e-4 * b.norm() + 1e-9
a, b = torch.rand(1, 30, 31, 3), torch.rand(1, 30, 31, 3)
x, y = a.clone().requires_grad_(), a.double().requires_grad_()
ops.l1_ssim(x, b).backward(torch.ones(1)); ops.l1_ssim(y, b.double()).backward(torch.ones(1).double())
assert (x.grad - y.grad).norm() < 1e-5 * y.grad.norm()
o, d, density = torch.randn(50, 3), torch.randn(50, 3), torch.rand(4000)
s = ops.march(o, d, torch.rand(2, 8, 8, 8) < 0.5, (-1, -1, -1, 1, 1, 1), step=0.05, far=4.0, capacity=4000)
def add(t):
    leaves = [x.to(t).clone().requires_grad_() for x in (density, density[:, None] * torch.ones(3))]
    out = ops.composite(ops.Samples(s.offsets, s.ray_ids, s.starts.to(t), s.ends.to(t)), *leaves)
    (out.color.square().sum() + out.depth.sum()).backward()
    return [out.color.detach(), *(x.grad for x in leaves)]
def soften(t):
    v = (torch.tensor([[[-0.5, -0.4, 1.0], [0.6, -0.3, 1.2], [0.1, 0.5, 0.9], [0.7, 0.6, 1.4]]])).to(t).requires_grad_()
    faces, K = torch.tensor([[0, 1, 2], [1, 3, 2]]), torch.tensor([[[20.0, 0, 16], [0, 20, 15], [0, 0, 1]]]).to(t)
    ids, b, z = ops.rasterize_mesh(v, faces, K, 33, 31)
    image = ops.antialias(ops.interpolate(v.detach(), faces, ids, b), z.detach(), v, ops.mesh_edges(faces), K)
    (image.square().sum() + z.sum()).backward()
    return [image.detach(), v.grad]
centres = torch.stack(torch.meshgrid(torch.arange(12) + 0.5, torch.arange(12) + 0.5, indexing="ij"), -1).reshape(-1, 2)
corners = torch.cat([centres, 1 + 0.5 * torch.rand(144, 1)], 1)
corners[:, :2] *= corners[:, 2:]
some = torch.randint(144, (200, 3))
assert torch.equal(*(r.rasterize_mesh(corners[None], some, torch.eye(3)[None], 13, 11)[0] for r in (ops, reference)))
for f in (add, soften):
    for a, b in zip(f(torch.float32), f(torch.float64)):
        assert (a - b).norm() < 1e-4 * b.norm() + 1e-9
"""
    if isa == "avx2" and ops.available()["cpu"] not in ("native (avx2)", "native (avx512)"):
        pytest.skip("the machine has no AVX2")
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "AVATARS_ISA": isa}, capture_output=True, text=True, cwd=INCLUDE.parents[1]
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"native ({isa})" in done.stdout
