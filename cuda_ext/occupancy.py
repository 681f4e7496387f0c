"""python -m cuda_ext.occupancy: what the compiler makes of each CUDA kernel, per architecture; needs nvcc and no GPU.

Registers and spilled bytes per thread, static shared memory per block, and the share of a multiprocessor's threads that can be in
flight at once ("the CUDA occupancy"), with what limits it. Every kernel is compiled as the library compiles it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

KERNELS = Path(__file__).parent / "cuda"

# Per multiprocessor: threads, blocks, bytes of shared memory, and bytes of these that each block's launch takes (CUDA programming guide,
# technical specifications per compute capability). 65,536 registers everywhere, given to warps by 256.
LIMITS = {
    75: (1024, 16, 64 << 10, 0),
    80: (2048, 32, 164 << 10, 1 << 10),
    86: (1536, 16, 100 << 10, 1 << 10),
    89: (1536, 24, 100 << 10, 1 << 10),
    90: (2048, 32, 228 << 10, 1 << 10),
}


@dataclass(frozen=True)
class Kernel:
    """One kernel on one architecture."""

    name: str
    architecture: int
    threads: int  # per block, 0: not bounded by the source
    registers: int  # per thread
    spilled: int  # bytes stored and loaded per thread
    shared: int  # bytes per block

    def occupancy(self) -> tuple[float, str]:
        """Threads in flight over the most there could be, and what sets it: threads, blocks, registers or shared memory."""
        most, most_blocks, shared, reserved = LIMITS[self.architecture]
        warps = -(-self.threads // 32)
        per_warp = -(-self.registers * 32 // 256) * 256
        blocks = {
            "threads": most // (32 * warps),
            "blocks": most_blocks,
            "registers": 65536 // per_warp // 4 * 4 // warps,
            "shared memory": shared // (-(-self.shared // 128) * 128 + reserved) if self.shared + reserved else most_blocks,
        }
        limit = min(blocks, key=lambda k: blocks[k])
        return blocks[limit] * 32 * warps / most, limit


def readable(mangled: str) -> str:
    """`raster_kernel<1, 8, 0, 1>` of a function in namespace av with integers as template arguments."""
    found = re.match(r"_ZN2av(\d+)", mangled)
    if found is None:
        return mangled
    name = mangled[found.end() :][: int(found[1])]
    arguments = re.match(r"I((?:L[a-z]\d+E)+)E", mangled[found.end() + len(name) :])
    return name if arguments is None else f"{name}<{', '.join(re.findall('L[a-z]([0-9]+)E', arguments[1]))}>"


def kernels_of(ptx: str, said: str, architecture: int) -> list[Kernel]:
    """From a file of PTX (bounds of blocks) and what `ptxas -v` says about it."""
    bounds = {name: int(threads) for name, threads in re.findall(r"\.entry (\w+)\([^)]*\)\s*\.maxntid (\d+)", ptx)}
    found = []
    for part in said.split("Compiling entry function ")[1:]:
        name = part.split("'")[1]

        def number(pattern: str, part: str = part) -> int:
            return sum(int(n) for n in re.findall(pattern, part))

        registers, spilled = number(r"Used (\d+) registers"), number(r"(\d+) bytes spill")
        found.append(Kernel(readable(name), architecture, bounds.get(name, 0), registers, spilled, number(r"(\d+) bytes smem")))
    return found


def compiled(source: Path, architecture: int, nvcc: str) -> list[Kernel]:
    """The kernels of one file."""
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder) / "kernels.ptx"
        options = [nvcc, "-std=c++17", "-O3", f"-arch=sm_{architecture}"]
        subprocess.run([*options, "-ptx", str(source), "-o", str(ptx)], check=True, capture_output=True, text=True)
        done = subprocess.run([*options, "-cubin", "-Xptxas", "-v", str(ptx), "-o", os.devnull], check=True, capture_output=True, text=True)
        return kernels_of(ptx.read_text(), done.stdout + done.stderr, architecture)


def table(kernels: list[Kernel]) -> str:
    """A line per kernel; spills stand out."""
    lines = [f"{'kernel':44} {'sm':>3} {'threads':>7} {'registers':>9} {'spilled':>8} {'shared':>7} {'occupancy':>9}  limit"]
    for k in sorted(kernels, key=lambda k: (k.name, k.architecture)):
        share, limit = k.occupancy() if k.threads else (float("nan"), "")
        occupancy = f"{share:.0%}" if k.threads else ""
        lines.append(
            f"{k.name:44} {k.architecture:3} {k.threads or '':7} {k.registers:9} {k.spilled or '':8} {k.shared or '':7} {occupancy:>9}  {limit}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m cuda_ext.occupancy", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="*", help="names in cuda_ext/cuda, e.g. project.cu; all when none are given")
    parser.add_argument("--architectures", nargs="+", type=int, default=[75, 80, 86, 90], choices=sorted(LIMITS))
    options = parser.parse_args(argv)
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("python -m cuda_ext.occupancy: needs nvcc on the path", file=sys.stderr)
        return 1
    sources = [KERNELS / name for name in options.files] or sorted(KERNELS.glob("*.cu"))
    jobs = [(source, architecture) for source in sources for architecture in options.architectures]
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = [kernel for part in pool.map(lambda job: compiled(job[0], job[1], nvcc), jobs) for kernel in part]
    except subprocess.CalledProcessError as error:
        print(f"python -m cuda_ext.occupancy: {' '.join(error.cmd)}\n{error.stderr}", file=sys.stderr)
        return 1
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
