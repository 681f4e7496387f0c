"""The rules of the house, held by walking the syntax trees: imports go one way, and heavy packages have one wrapper each."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("cuda_ext", "avatars", "capture", "viewer")  # each may import itself and what stands before it
FRONT_DOOR = ("avatars/__main__.py", "avatars/commands/")  # may import from every room, lazily
WRAPPED = {  # package → the only files that may import it
    "gsplat": ("avatars/render/gsplat.py", "cuda_ext/bench_cuda.py"),  # the backend; the peer in the benchmark
    "nerfacc": ("avatars/render/volume.py",),
    "tinycudann": ("avatars/hash_grid.py",),
    "mediapipe": ("capture/landmarks.py", "capture/matte.py", "avatars/head/correspond.py"),
}


def sources() -> list[Path]:
    return [p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))]


def imports(path: Path) -> list[tuple[str, bool]]:
    """(top-level package, whether it is imported when the module is) for each absolute import of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            lazy.update(ast.walk(node))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name.split(".")[0], node not in lazy) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.append((node.module.split(".")[0], node not in lazy))
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    front_door = name.startswith(FRONT_DOOR)
    allowed = ROOMS[: ROOMS.index(name.split("/")[0]) + 1]
    for package, eager in imports(path):
        if package in ROOMS and package not in allowed:
            assert front_door and not eager, f"{name} imports {package}; imports go {' ← '.join(ROOMS)}"
        if package in WRAPPED:
            assert name in WRAPPED[package], f"{name} imports {package}; only {WRAPPED[package]} may"
            assert not eager, f"{name} imports {package} when it is loaded; do it inside a function"
        if package == "viser":
            assert name.startswith("viewer/"), f"{name} imports viser; only the viewer may"


def test_kernels_know_torch_and_nothing_else() -> None:
    known = {"torch", "numpy", "cuda_ext", "gsplat"}
    import sys

    for path in (ROOT / "cuda_ext").rglob("*.py"):
        for package, eager in imports(path):
            if eager:
                assert package in known | set(sys.stdlib_module_names), f"{path.name} imports {package}"


def test_no_hidden_devices_pickles_or_evals() -> None:
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert not called.endswith(".cuda"), f"{path}: .cuda() hides a device; follow the inputs' device"
            assert called not in ("eval", "exec", "pickle.load", "pickle.loads"), f"{path}: {called}"
            if called == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), (
                    f"{path}: torch.load without weights_only=True"
                )
            if called == "np.load":
                assert not any(k.arg == "allow_pickle" and ast.unparse(k.value) == "True" for k in node.keywords), f"{path}: allow_pickle"


def test_every_module_says_what_it_is_for() -> None:
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not tree.body or ast.get_docstring(tree), f"{path.relative_to(ROOT)} has no docstring"
        assert path.name not in ("utils.py", "helpers.py"), f"{path}: name the concept"
