"""What a compiled kernel takes: registers, spills, shared memory, occupancy and its mix of instructions.

Read from ptxas' log and PTX for NVIDIA, from the assembly for AMD. Instructions are counted as they stand in the code
(per thread, loops not multiplied); loads and stores of global memory by their width in bits.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget

from bench.core.occupancy import occupancy
from bench.hardware import Architecture

NAMED = {
    r"wgmma\.mma_async": "wgmma", r"tcgen05\.mma": "tcgen05", r"mma\.sync": "mma", r"v_mfma|v_smfmac": "mfma",
    r"cp\.async\.bulk\.tensor\S*\.shared\S*\.global": "tma.load",
    r"cp\.async\.bulk\.tensor\S*\.global\.shared": "tma.store", r"cp\.reduce\.async\.bulk": "tma.reduce",
    r"ldmatrix": "ldmatrix", r"stmatrix": "stmatrix",
    r"fma\.rn\S*\.f32|fma\.rn\S*\.f32x2|v_(pk_)?fma(c|_)\S*f32|v_dot2\S*": "fma", r"dp4a|v_dot4": "dp4a",
    r"(ex2|lg2|rsqrt|sqrt|rcp|sin|cos|tanh)\.\S+|v_(exp|log|rsq|sqrt|rcp|sin|cos)_\S+": "special",
    r"(atom|red)\.\S*global|(global|buffer)_atomic": "atomic", r"bar(rier)?\.sync|s_barrier": "barrier",
}  # fmt: skip
MIX = re.compile("|".join(f"(?P<i{i}>(?:{pattern}))" for i, pattern in enumerate(NAMED)))
PTX_ACCESS = re.compile(r"(ld|st)\.(?:volatile\.|relaxed\.\w+\.)?global(?:\.\w+:*\w*)*?(?:\.v(\d))?\.[bfsu](\d+)\b")
PTX_ASYNC = re.compile(r"cp\.async\.c[ag]\.shared\.global.*?, (0x[0-9a-f]+|\d+)")
AMD_ACCESS = re.compile(
    r"(?:global|buffer|flat)_(load|store)_(?:lds_)?(dwordx[234]|dword|d16|[us]?byte|[us]?short|format_d16_x|b\d+)"
)
TENSOR_COLUMNS = 512  # of a multiprocessor of sm_100 (PTX ISA 8.6, tcgen05.alloc)
AMD_WIDTH = {"dwordx4": 128, "dwordx3": 96, "dwordx2": 64, "dword": 32, "byte": 8, "short": 16}


@dataclass(frozen=True)
class Resources:
    """What a kernel takes of a processor, per thread and block.

    registers: per thread (AMD: VGPRs, accumulation registers among them). spills: bytes per thread that ptxas stores to
    local memory for want of registers (AMD: 4 for every spilled VGPR). stack: bytes of local memory per thread. shared:
    bytes per block. warps: per block, those of warp specialisation among them. occupancy: resident warps by what the
    processor could hold, in theory. instructions: by kind.
    """

    registers: int
    spills: int
    stack: int
    shared: int
    warps: int
    occupancy: float
    instructions: dict[str, int]


def build(source: Any, gpu: GPUTarget, options: Any, architecture: Architecture) -> dict[str, Any]:
    """Compile a kernel: its `Resources` as a dict, or the reason why it is `absent`, as the compiler tells it."""
    log = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, knobs.nvidia.scope(), knobs.cache.scope():
        knobs.nvidia.dump_ptxas_log = True
        knobs.cache.dir = folder
        try:
            with redirect_stdout(log):
                kernel = triton.compile(source, target=gpu, options=options.__dict__)
        except Exception as error:  # noqa: BLE001 - whatever the compiler says is what is recorded
            return {"absent": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
        shared, warps, assembly = kernel.metadata.shared, kernel.metadata.num_warps, dict(kernel.asm)
        columns = getattr(kernel.metadata, "tmem_size", None) or 0
    if shared > architecture.shared_limit:
        return {"absent": f"shared memory: needs {shared} bytes, a block may have {architecture.shared_limit}"}
    if columns > TENSOR_COLUMNS:  # a trap is compiled in its place
        return {"absent": f"tensor memory: needs {columns} columns, a block may have {TENSOR_COLUMNS}"}
    return asdict(read(assembly, log.getvalue(), shared, warps, architecture))


def read(assembly: dict[str, Any], log: str, shared: int, warps: int, architecture: Architecture) -> Resources:
    """The resources of a compiled kernel: Triton's stages of assembly, ptxas' log, its shared memory and warps."""
    nvidia = "ptx" in assembly
    registers, spills, stack = _of_ptxas(log) if nvidia else _of_amdgcn(assembly["amdgcn"])
    held = occupancy(architecture, registers, shared, warps)
    mix = instructions(assembly["ptx" if nvidia else "amdgcn"])
    return Resources(registers, spills, stack, shared, warps, round(held, 4), mix)


def instructions(text: str) -> dict[str, int]:
    """Instructions by kind, of PTX or AMDGCN; those of no kind named here are not counted."""
    kinds = list(NAMED.values())
    found: Counter[str] = Counter()
    for line in map(str.strip, text.splitlines()):
        if not line or line[0] in ";./":
            continue
        if access := PTX_ACCESS.search(line):
            word, vector, bits = access.groups()
            found[f"{'load' if word == 'ld' else 'store'}.{int(vector or 1) * int(bits)}"] += 1
        elif access := PTX_ASYNC.search(line):
            found[f"cp.async.{8 * int(access[1], 0)}"] += 1
        elif access := AMD_ACCESS.search(line):
            found[f"{access[1]}.{_amd_bits(access[2])}"] += 1
        elif match := MIX.search(line):
            found[kinds[int(str(match.lastgroup)[1:])]] += 1
    return dict(sorted(found.items()))


def _amd_bits(width: str) -> int:
    if width.startswith("b"):
        return int(width[1:]) if width != "byte" else 8
    return AMD_WIDTH.get(width.lstrip("us"), 16)


def _of_ptxas(log: str) -> tuple[int, int, int]:
    """Registers, spilled bytes and stack by the log of `ptxas -v`, of the one kernel or the worst of its functions."""
    registers = max(map(int, re.findall(r"Used (\d+) registers", log)))
    spills = max(map(int, re.findall(r"(\d+) bytes spill stores", log)))
    stack = max(map(int, re.findall(r"(\d+) bytes stack frame", log)))
    return registers, spills, stack


def _of_amdgcn(text: str) -> tuple[int, int, int]:
    """The same by the metadata at the end of AMD's assembly."""

    def named(name: str) -> int:
        return max(map(int, re.findall(rf"\.{name}:\s*(\d+)", text)))

    return named("vgpr_count"), 4 * named("vgpr_spill_count"), named("private_segment_fixed_size")
