"""The hardware table: what one processor holds and what one GPU can move and compute at most, each with its source.

Peaks are dense, never of structured sparsity, and accumulate in fp32 (int8 in int32): that is what the kernels do. They
are ceilings of the silicon at its boost clock, not of what is sustained within the power limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

_KIB, _MIB = 2**10, 2**20
_AMD = "https://www.amd.com/en/products/accelerators/instinct"
_NVIDIA = "https://www.nvidia.com/en-us"

SOURCES = {
    "cuda-limits": (
        "CUDA C++ Programming Guide, Technical Specifications per Compute Capability, "
        "https://docs.nvidia.com/cuda/cuda-c-programming-guide/#compute-capabilities; "
        "allocation units, reserved bytes and sub-partitions: cuda_occupancy.h and libcu++ arch_traits.h of CUDA 13"
    ),
    "cuda-throughput": (
        "CUDA C++ Programming Guide, Throughput of Native Arithmetic Instructions, reciprocal, rsqrt, exp2 and log2, "
        "https://docs.nvidia.com/cuda/cuda-c-programming-guide/#arithmetic-instructions"
    ),
    "amd-limits": (
        "ROCm, AMD GPU specifications (wavefront, LDS, VGPR file), "
        "https://rocm.docs.amd.com/en/latest/reference/gpu-specs.html; waves per SIMD, VGPR and LDS granules: LLVM, "
        "https://github.com/llvm/llvm-project/blob/main/llvm/lib/Target/AMDGPU/Utils/AMDGPUBaseInfo.cpp"
    ),
    "amd-quarter-rate": (
        "derived: 4 SIMDs x 16 lanes / 4, transcendental instructions being quarter rate in LLVM's SISchedule.td, "
        "https://github.com/llvm/llvm-project/blob/main/llvm/lib/Target/AMDGPU/SISchedule.td"
    ),
    "cdna4-transcendental": (
        "derived: twice the 16 of CDNA 3, whose transcendental rate CDNA 4 doubles; AMD CDNA 4 white paper, "
        "https://www.amd.com/content/dam/amd/en/documents/instinct-tech-docs/white-papers/"
        "amd-cdna-4-architecture-whitepaper.pdf"
    ),
    "v100": (
        "NVIDIA Tesla V100 GPU Architecture white paper (SXM2), "
        "https://images.nvidia.com/content/volta-architecture/pdf/volta-architecture-whitepaper.pdf"
    ),
    "v100-dp4a": "derived: 80 SMs x 64 dp4a per clock x 8 operations x 1.53 GHz; V100 has no int8 tensor cores",
    "t4": f"NVIDIA T4 data sheet, {_NVIDIA}/data-center/tesla-t4/; SMs, clock and L2: Turing white paper (TU104)",
    "a10": f"NVIDIA A10 data sheet, {_NVIDIA}/data-center/products/a10-gpu/; SMs and L2: GA102 white paper",
    "a100": (
        f"NVIDIA A100 data sheet (SXM), {_NVIDIA}/data-center/a100/; SMs, clock and L2: Ampere white paper, "
        "https://images.nvidia.com/aem-dam/en-zz/Solutions/data-center/nvidia-ampere-architecture-whitepaper.pdf"
    ),
    "l4": f"NVIDIA L4 data sheet, {_NVIDIA}/data-center/l4/; derived: its tensor rates with sparsity, halved",
    "l40s": f"NVIDIA L40S data sheet, {_NVIDIA}/data-center/l40s/; L2: Ada white paper (AD102)",
    "h100": (
        f"NVIDIA H100 data sheet, {_NVIDIA}/data-center/h100/; derived: it prints tensor rates with sparsity, halved "
        "here; SMs and L2: Hopper white paper"
    ),
    "h100-clock": (
        "derived: the clock of the fp32 peak (SXM 67 TFLOP/s, PCIe 51), which is the highest that the driver offers; "
        "the tensor peaks are quoted at 1.83 GHz (SXM) and 1.62 GHz (PCIe)"
    ),
    "h200": f"NVIDIA H200 data sheet (SXM), {_NVIDIA}/data-center/h200/; derived: tensor rates halved as those of h100",
    "device-query": "what the driver reports: torch.cuda.get_device_properties, nvidia-smi --query-gpu=clocks.max.sm",
    "b200": f"NVIDIA HGX B200, {_NVIDIA}/data-center/hgx/; derived: an eighth of the board, sparse tensor rates halved",
    "b200-dgx": f"NVIDIA DGX B200, {_NVIDIA}/data-center/dgx-b200/; derived: an eighth of 64 TB/s; 1000 W per GPU",
    "rtx3090": (
        "NVIDIA Ampere GA102 GPU Architecture white paper, appendix A, fp32 accumulate, "
        "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf"
    ),
    "rtx4090": (
        "NVIDIA Ada GPU Architecture white paper, appendix A, fp32 accumulate, "
        "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
    ),
    "rtx5090": (
        "NVIDIA RTX Blackwell GPU Architecture white paper, appendix A, fp32 accumulate; block-scaled fp8 is not bound "
        "by its fp8 figure, https://images.nvidia.com/aem-dam/Solutions/geforce/blackwell/"
        "nvidia-rtx-blackwell-gpu-architecture.pdf"
    ),
    "mi250x": f"AMD Instinct MI250X data sheet, package of two dies, {_AMD}/mi200/mi250x.html",
    "mi250x-pins": "derived: 8192 bit of HBM2e at 3.2 Gbit/s, both dies; the data sheet rounds it to 3.2 TB/s",
    "mi300x": f"AMD Instinct MI300X data sheet, {_AMD}/mi300/mi300x.html",
    "mi325x": f"AMD Instinct MI325X data sheet, {_AMD}/mi300/mi325x.html",
    "mi355x": f"AMD Instinct MI355X data sheet, {_AMD}/mi350/mi355x.html",
    "mi355x-rates": (
        "derived: 256 CUs x 2.4 GHz x 4096 (fp16, bf16) or 8192 (fp8, int8) operations per clock; the data sheet "
        "rounds them to 2.5 and 5 PFLOP/s"
    ),
    "amd-l2": (
        "derived: dies x L2 of a die (MI250X 2 x 8 MiB, MI300 and MI350 8 x 4 MiB; the Infinity Cache not counted); "
        "ROCm, AMD GPU specifications, https://rocm.docs.amd.com/en/latest/reference/gpu-specs.html"
    ),
    "launch": (
        "B. Spector et al., Look Ma, No Bubbles!, Hazy Research 2025: cost of one kernel in a CUDA graph on an H100, "
        "https://hazyresearch.stanford.edu/blog/2025-05-27-no-bubbles"
    ),
}


class Figure(NamedTuple):
    """One figure in SI units and the key of `SOURCES` under which stands who published it or how it was derived."""

    value: float
    source: str


# Seconds from one kernel to the next that depends on it. A floor: this is a kernel that does nothing, launched by a
# graph, so that no host is in it. A stream adds to it. NVIDIA's post on CUDA graphs finds 3.4 us per kernel of 2.9 us
# (https://developer.nvidia.com/blog/cuda-graphs/); those 0.5 us leave out what every kernel spends on starting and
# draining itself, hence are no floor of a whole kernel. Only programmatic dependent launch overlaps part of it.
LAUNCH = Figure(1.3e-6, "launch")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What one processor holds: a streaming multiprocessor (SM) of NVIDIA's, a compute unit (CU) of AMD's.

    vendor: `nvidia` or `amd`; warp_size: threads in a warp or wave; max_warps, max_blocks: resident in a processor;
    simds: sub-partitions of a processor, each with its own share of the registers;
    registers: NVIDIA: 32-bit registers of an SM. AMD: VGPRs and AGPRs of one lane of a SIMD;
    max_registers_per_thread: the most that the compiler may use, on AMD VGPRs and AGPRs together;
    register_unit: NVIDIA: a warp is given a multiple of so many registers. AMD: a thread is;
    shared_bytes: shared memory or LDS of a processor; shared_limit: the most of it that a block may ask for, opt-in;
    shared_reserved: what the system takes on top for each block; shared_unit: both together are rounded up to it;
    special_per_clock: results of exp2, log2 or rsqrt per clock and processor, in fp32;
    source: key of `SOURCES` for all of these but the last, which carries its own.
    """

    vendor: str
    warp_size: int
    max_warps: int
    max_blocks: int
    simds: int
    registers: int
    max_registers_per_thread: int
    register_unit: int
    shared_bytes: int
    shared_limit: int
    shared_reserved: int
    shared_unit: int
    special_per_clock: Figure
    source: str


def _nvidia(warps: int, blocks: int, shared: int, reserved: int, unit: int, special: int) -> Architecture:
    """A row of NVIDIA's: shared memory and what of it is reserved in KiB, its unit in bytes."""
    return Architecture(
        vendor="nvidia",
        warp_size=32,
        max_warps=warps,
        max_blocks=blocks,
        simds=4,
        registers=65536,
        max_registers_per_thread=255,
        register_unit=256,
        shared_bytes=shared * _KIB,
        shared_limit=(shared - reserved) * _KIB,
        shared_reserved=reserved * _KIB,
        shared_unit=unit,
        special_per_clock=Figure(special, "cuda-throughput"),
        source="cuda-limits",
    )


def _amd(shared: int, unit: int, special: Figure) -> Architecture:
    """A row of AMD's CDNA 2 to 4: LDS in KiB, its unit in bytes.

    A CU has barriers for 16 blocks, which a block of one wave does without: with 32 waves at most, neither ever binds.
    """
    return Architecture(
        vendor="amd",
        warp_size=64,
        max_warps=32,
        max_blocks=32,
        simds=4,
        registers=512,
        max_registers_per_thread=512,
        register_unit=8,
        shared_bytes=shared * _KIB,
        shared_limit=shared * _KIB,
        shared_reserved=0,
        shared_unit=unit,
        special_per_clock=special,
        source="amd-limits",
    )


# By the names of Triton's targets.
ARCHITECTURES = {
    "sm_70": _nvidia(warps=64, blocks=32, shared=96, reserved=0, unit=256, special=16),
    "sm_75": _nvidia(warps=32, blocks=16, shared=64, reserved=0, unit=256, special=16),
    "sm_80": _nvidia(warps=64, blocks=32, shared=164, reserved=1, unit=128, special=16),
    "sm_86": _nvidia(warps=48, blocks=16, shared=100, reserved=1, unit=128, special=16),
    "sm_89": _nvidia(warps=48, blocks=24, shared=100, reserved=1, unit=128, special=16),
    "sm_90": _nvidia(warps=64, blocks=32, shared=228, reserved=1, unit=128, special=16),
    "sm_100": _nvidia(warps=64, blocks=32, shared=228, reserved=1, unit=128, special=16),
    "sm_120": _nvidia(warps=48, blocks=24, shared=100, reserved=1, unit=128, special=16),
    "gfx90a": _amd(shared=64, unit=512, special=Figure(16, "amd-quarter-rate")),
    "gfx942": _amd(shared=64, unit=512, special=Figure(16, "amd-quarter-rate")),
    "gfx950": _amd(shared=160, unit=1280, special=Figure(32, "cdna4-transcendental")),
}


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The ceilings of one GPU.

    key: its name on a command line; architecture: key of `ARCHITECTURES`; bandwidth: of its memory, bytes/s;
    peaks: operations/s by dtype (`fp32` of the vector units, `fp16`, `bf16`, `fp8`, `int8` of the matrix units, a
    multiply-add being two), without the dtypes for which it has no such units; processors: SMs or CUs in use;
    l2_bytes: its second-level cache; clock_hz: boost clock; tdp_w: power limit, watts.

    An MI250X is a package of two dies and so are its figures; torch sees either die as a device of half of them.
    """

    key: str
    name: str
    architecture: str
    bandwidth: Figure
    peaks: Mapping[str, Figure]
    processors: Figure
    l2_bytes: Figure
    clock_hz: Figure
    tdp_w: Figure


_DTYPES = ("fp32", "fp16", "bf16", "fp8", "int8")
_FIGURES = ("bandwidth", *_DTYPES, "processors", "l2_bytes", "clock_hz", "tdp_w")
_Row = tuple[str, str, str, int, int, float, tuple[float | None, ...], int, int]

# Bandwidth in GB/s and peaks in TFLOP/s (int8: TOP/s) are powers of ten, L2 is in MiB. The source of a row is called as
# its key is, but for what _ELSEWHERE says.
# fmt: off
_ROWS: tuple[_Row, ...] = (
    # key        name                 target    SMs   MHz    GB/s    fp32    fp16    bf16     fp8    int8    L2     W
    ("v100",      "Tesla V100 SXM2",   "sm_70",   80, 1530,    900, ( 15.7,    125,   None,   None,   62.7),   6,  300),
    ("t4",        "NVIDIA T4",         "sm_75",   40, 1590,    320, (  8.1,     65,   None,   None,    130),   4,   70),
    ("a10",       "NVIDIA A10",        "sm_86",   72, 1695,    600, ( 31.2,    125,    125,   None,    250),   6,  150),
    ("a100-40",   "NVIDIA A100 40 GB", "sm_80",  108, 1410,   1555, ( 19.5,    312,    312,   None,    624),  40,  400),
    ("a100-80",   "NVIDIA A100 80 GB", "sm_80",  108, 1410,   2039, ( 19.5,    312,    312,   None,    624),  40,  400),
    ("l4",        "NVIDIA L4",         "sm_89",   58, 2040,    300, ( 30.3,    121,    121,    242,    242),  48,   72),
    ("l40s",      "NVIDIA L40S",       "sm_89",  142, 2520,    864, ( 91.6,    362,    362,    733,    733),  96,  350),
    ("h100",      "NVIDIA H100 SXM",   "sm_90",  132, 1980,   3350, ( 66.9,    989,    989,   1979,   1979),  50,  700),
    ("h100-pcie", "NVIDIA H100 PCIe",  "sm_90",  114, 1755,   2000, ( 51.2,    756,    756,   1513,   1513),  50,  350),
    ("h200",      "NVIDIA H200 SXM",   "sm_90",  132, 1980,   4800, ( 66.9,    989,    989,   1979,   1979),  60,  700),
    ("b200",      "NVIDIA B200",       "sm_100", 148, 1965,   8000, (   75,   2250,   2250,   4500,   4500), 126, 1000),
    ("rtx3090",   "GeForce RTX 3090",  "sm_86",   82, 1695,    936, ( 35.6,     71,     71,   None,    284),   6,  350),
    ("rtx4090",   "GeForce RTX 4090",  "sm_89",  128, 2520,   1008, ( 82.6,  165.2,  165.2,  330.3,  660.6),  72,  450),
    ("rtx5090",   "GeForce RTX 5090",  "sm_120", 170, 2407,   1792, (104.8,  209.5,  209.5,    419,    838),  96,  575),
    ("mi250x",    "Instinct MI250X",   "gfx90a", 220, 1700, 3276.8, ( 47.9,    383,    383,   None,    383),  16,  560),
    ("mi300x",    "Instinct MI300X",   "gfx942", 304, 2100,   5300, (163.4, 1307.4, 1307.4, 2614.9, 2614.9),  32,  750),
    ("mi325x",    "Instinct MI325X",   "gfx942", 304, 2100,   6000, (163.4, 1307.4, 1307.4, 2614.9, 2614.9),  32, 1000),
    ("mi355x",    "Instinct MI355X",   "gfx950", 256, 2400,   8000, (157.3, 2516.6, 2516.6, 5033.2, 5033.2),  32, 1400),
)
# fmt: on

_ELSEWHERE = {
    "v100": {"int8": "v100-dp4a"},
    "a100-40": dict.fromkeys(_FIGURES, "a100"),
    "a100-80": dict.fromkeys(_FIGURES, "a100"),
    "h100": {"clock_hz": "h100-clock"},
    "h100-pcie": dict.fromkeys(_FIGURES, "h100") | {"clock_hz": "h100-clock"},
    "h200": {"clock_hz": "h100-clock", "processors": "device-query", "l2_bytes": "device-query"},
    "b200": {
        **dict.fromkeys(("clock_hz", "processors", "l2_bytes"), "device-query"),
        **dict.fromkeys(("bandwidth", "tdp_w"), "b200-dgx"),
    },
    "mi250x": {"bandwidth": "mi250x-pins", "l2_bytes": "amd-l2"},
    "mi300x": {"l2_bytes": "amd-l2"},
    "mi325x": {"l2_bytes": "amd-l2"},
    "mi355x": {"l2_bytes": "amd-l2", **dict.fromkeys(("fp16", "bf16", "fp8", "int8"), "mi355x-rates")},
}

# What the drivers call these very boards. Others of the same chip (PCIe, NVL, Ti, D, Laptop, MIG slices) have other
# figures, so that a name has to match as a whole.
_DEVICE_NAMES = {
    "v100": r"Tesla V100-SXM[23]-(16|32)GB",
    "t4": r"(NVIDIA|Tesla) T4",
    "a10": r"NVIDIA A10",
    "a100-40": r"(NVIDIA )?A100-SXM4-40GB",
    "a100-80": r"(NVIDIA )?A100-SXM4?-80GB",
    "l4": r"NVIDIA L4",
    "l40s": r"NVIDIA L40S",
    "h100": r"NVIDIA H100 80GB HBM3",
    "h100-pcie": r"NVIDIA H100 PCIe",
    "h200": r"NVIDIA H200",
    "b200": r"NVIDIA B200",
    "rtx3090": r"(NVIDIA )?GeForce RTX 3090",
    "rtx4090": r"(NVIDIA )?GeForce RTX 4090",
    "rtx5090": r"(NVIDIA )?GeForce RTX 5090",
    "mi250x": r"AMD Instinct MI250X",
    "mi300x": r"AMD Instinct MI300X( OAM)?",
    "mi325x": r"AMD Instinct MI325X( OAM)?",
    "mi355x": r"AMD Instinct MI355X( OAM)?",
}


def _gpu(row: _Row) -> Gpu:
    key, name, architecture, processors, mhz, gigabytes, teraflops, l2_mib, watts = row

    def figure(field: str, value: float) -> Figure:
        return Figure(value, _ELSEWHERE.get(key, {}).get(field, key))

    return Gpu(
        key=key,
        name=name,
        architecture=architecture,
        bandwidth=figure("bandwidth", gigabytes * 1e9),
        peaks={
            dtype: figure(dtype, peak * 1e12)
            for dtype, peak in zip(_DTYPES, teraflops, strict=True)
            if peak is not None
        },
        processors=figure("processors", processors),
        l2_bytes=figure("l2_bytes", l2_mib * _MIB),
        clock_hz=figure("clock_hz", mhz * 1e6),
        tdp_w=figure("tdp_w", watts),
    )


GPUS = {row[0]: _gpu(row) for row in _ROWS}


def find(names: Iterable[str]) -> list[Gpu]:
    """The GPUs of those keys, in that order; upper and lower case are one.

    Raises:
        ValueError: a name that is no key of the table.
    """
    asked = list(names)
    unknown = [name for name in asked if name.lower() not in GPUS]
    if unknown:
        raise ValueError(f"unknown GPU {', '.join(map(repr, unknown))}; the table holds {', '.join(GPUS)}")
    return [GPUS[name.lower()] for name in asked]


def named(device_name: str) -> Gpu | None:
    """The GPU that torch or NVML calls by that name, e.g. `NVIDIA H100 80GB HBM3`; None if the table lacks it."""
    for key, pattern in _DEVICE_NAMES.items():
        if re.fullmatch(pattern, device_name.strip(), re.IGNORECASE):
            return GPUS[key]
    return None


def as_dict(gpu: Gpu) -> dict[str, str | float | dict[str, float]]:
    """The GPU for JSON: the fields of `Gpu` in the same SI units, figures as bare numbers.

    `special`: results of special functions per second, of all processors; `launch_s`: seconds that a launch takes.
    """
    rate = ARCHITECTURES[gpu.architecture].special_per_clock
    special = gpu.processors.value * rate.value * gpu.clock_hz.value
    return {
        "key": gpu.key,
        "name": gpu.name,
        "architecture": gpu.architecture,
        "bandwidth": round(gpu.bandwidth.value),
        "peaks": {dtype: round(peak.value) for dtype, peak in gpu.peaks.items()},
        "special": round(special),
        "launch_s": LAUNCH.value,
        "processors": gpu.processors.value,
        "l2_bytes": gpu.l2_bytes.value,
        "clock_hz": round(gpu.clock_hz.value),
        "tdp_w": gpu.tdp_w.value,
    }
