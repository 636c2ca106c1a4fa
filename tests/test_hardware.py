"""The hardware table: figures with sources that fit one another, and occupancy worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from bench import hardware
from bench.core.occupancy import occupancy
from bench.hardware import ARCHITECTURES, GPUS, LAUNCH, SOURCES, Figure, Gpu, as_dict, find, named

EVERY_GPU = pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
EVERY_ARCHITECTURE = pytest.mark.parametrize("target", ARCHITECTURES)
KIB = 1024

# Multiply-adds per clock and processor of the vector units in fp32, and of the matrix units in fp16 with fp32 sums:
# from the diagrams of the white papers, not from the table under test.
VECTOR = {
    "sm_70": 64,
    "sm_75": 64,
    "sm_80": 64,
    "sm_86": 128,
    "sm_89": 128,
    "sm_90": 128,
    "sm_100": 128,
    "sm_120": 128,
    "gfx90a": 64,
    "gfx942": 128,
    "gfx950": 128,
}
MATRIX = {
    "sm_70": 512,
    "sm_75": 512,
    "sm_80": 1024,
    "sm_86": 512,
    "sm_89": 512,
    "sm_90": 2048,
    "sm_100": 4096,
    "sm_120": 512,
    "gfx90a": 512,
    "gfx942": 1024,
    "gfx950": 2048,
}
GEFORCE = {"rtx3090", "rtx4090", "rtx5090"}


def _figures(gpu: Gpu) -> Iterator[Figure]:
    yield from (gpu.bandwidth, gpu.processors, gpu.l2_bytes, gpu.clock_hz, gpu.tdp_w)
    yield from gpu.peaks.values()


@EVERY_GPU
def test_every_figure_of_a_gpu_is_positive_and_names_its_source(gpu: Gpu) -> None:
    for figure in _figures(gpu):
        assert figure.value > 0
        assert figure.source in SOURCES


@EVERY_ARCHITECTURE
def test_every_figure_of_an_architecture_names_its_source(target: str) -> None:
    architecture = ARCHITECTURES[target]
    assert architecture.source in SOURCES
    assert architecture.special_per_clock.source in SOURCES


def test_every_source_is_used_and_can_be_looked_up() -> None:
    used = {figure.source for gpu in GPUS.values() for figure in _figures(gpu)} | {LAUNCH.source}
    used |= {row.source for row in ARCHITECTURES.values()}
    used |= {row.special_per_clock.source for row in ARCHITECTURES.values()}
    assert used == set(SOURCES)
    for key, text in SOURCES.items():
        assert "https://" in text or "derived:" in text or key == "device-query", key


def test_the_table_holds_the_gpus_that_the_design_names() -> None:
    nvidia = ["v100", "t4", "a10", "a100-40", "a100-80", "l4", "l40s", "h100", "h100-pcie", "h200", "b200"]
    geforce = ["rtx3090", "rtx4090", "rtx5090"]
    assert list(GPUS) == [*nvidia, *geforce, "mi250x", "mi300x", "mi325x", "mi355x"]
    assert all(key == gpu.key == key.lower() for key, gpu in GPUS.items())


@EVERY_GPU
def test_every_gpu_has_an_architecture_of_its_vendor(gpu: Gpu) -> None:
    assert (ARCHITECTURES[gpu.architecture].vendor == "amd") == gpu.name.startswith("Instinct")


def test_every_architecture_has_a_gpu() -> None:
    assert {gpu.architecture for gpu in GPUS.values()} == set(ARCHITECTURES)


@EVERY_GPU
def test_fp32_peak_is_what_the_vector_units_do_at_boost_clock(gpu: Gpu) -> None:
    expected = gpu.processors.value * VECTOR[gpu.architecture] * 2 * gpu.clock_hz.value
    assert gpu.peaks["fp32"].value == pytest.approx(expected, rel=0.03)


@EVERY_GPU
def test_fp16_peak_is_dense_and_accumulates_in_fp32(gpu: Gpu) -> None:
    half = 2 if gpu.key in GEFORCE else 1
    expected = gpu.processors.value * MATRIX[gpu.architecture] * 2 * gpu.clock_hz.value / half
    # The tensor peaks of Hopper and B200 are quoted at a clock below the boost of their vector units.
    assert gpu.peaks["fp16"].value == pytest.approx(expected, rel=0.08)
    assert gpu.peaks["fp16"].value < expected * 1.01


@EVERY_GPU
def test_peaks_of_narrower_dtypes_keep_their_ratios(gpu: Gpu) -> None:
    peaks = {dtype: figure.value for dtype, figure in gpu.peaks.items()}
    assert peaks.get("bf16", peaks["fp16"]) == peaks["fp16"]
    if "fp8" in peaks:
        assert peaks["fp8"] == pytest.approx(2 * peaks["fp16"], rel=0.02)
    ratio = {"v100": 0.5, "mi250x": 1.0}.get(gpu.key, 4.0 if gpu.key in GEFORCE else 2.0)
    assert peaks["int8"] == pytest.approx(ratio * peaks["fp16"], rel=0.02)


def test_dtypes_are_absent_where_there_are_no_units_for_them() -> None:
    assert {key for key, gpu in GPUS.items() if "bf16" not in gpu.peaks} == {"v100", "t4"}
    without_fp8 = {"v100", "t4", "a10", "a100-40", "a100-80", "rtx3090", "mi250x"}
    assert {key for key, gpu in GPUS.items() if "fp8" not in gpu.peaks} == without_fp8


@EVERY_ARCHITECTURE
def test_architectures_are_consistent(target: str) -> None:
    row = ARCHITECTURES[target]
    assert row.shared_limit + row.shared_reserved == row.shared_bytes
    assert row.shared_bytes % row.shared_unit == 0
    assert row.max_warps % row.simds == 0
    assert row.warp_size == (64 if row.vendor == "amd" else 32)
    bytes_of_registers = row.registers * 4 * (row.warp_size * row.simds if row.vendor == "amd" else 1)
    assert bytes_of_registers == (512 if row.vendor == "amd" else 256) * KIB


@EVERY_ARCHITECTURE
def test_special_functions_run_at_a_quarter_to_an_eighth_of_the_vector_units(target: str) -> None:
    assert VECTOR[target] / ARCHITECTURES[target].special_per_clock.value in {4, 8}


# By hand. Registers of a warp: 32 lanes times registers, up to a multiple of 256; a quarter of 65536 feeds each of four
# sub-partitions. Shared memory of a block: plus 1 KiB from sm_80 on, up to a multiple of 128 (256 before).
@pytest.mark.parametrize(
    ("target", "registers", "shared", "warps", "resident"),
    [
        pytest.param("sm_90", 32, 0, 8, 64, id="full: 32 registers are all that 64 warps can have"),
        pytest.param("sm_90", 33, 0, 8, 48, id="registers: 33 become 40, 16384 // 1280 = 12 warps of each quarter"),
        pytest.param("sm_90", 168, 100 * KIB, 8, 8, id="registers: 5376 a warp, 3 a quarter, 12 // 8 = 1 block"),
        pytest.param("sm_90", 168, 100 * KIB, 4, 8, id="shared: 12 // 4 = 3 blocks of registers, 228 // 101 = 2"),
        pytest.param("sm_90", 168, 75 * KIB, 4, 12, id="registers and shared alike: 228 // 76 = 3 blocks"),
        pytest.param("sm_90", 168, 75 * KIB + 1, 4, 8, id="shared: one byte more costs a block"),
        pytest.param("sm_90", 168, 0, 3, 12, id="registers: 12 // 3 = 4 blocks"),
        pytest.param("sm_90", 255, 0, 16, 0, id="registers: 8192 a warp, 8 warps at most"),
        pytest.param("sm_90", 255, 0, 8, 8, id="registers: 8192 a warp, just one block of 8"),
        pytest.param("sm_90", 16, 12 * KIB, 1, 17, id="shared: 228 // 13 = 17 blocks of one warp"),
        pytest.param("sm_90", 16, 0, 1, 32, id="blocks: 32 of one warp fill half an SM"),
        pytest.param("sm_90", 16, 0, 24, 48, id="warps: 64 // 24 = 2 blocks"),
        pytest.param("sm_90", 128, 227 * KIB, 4, 4, id="shared: the most that a block may have"),
        pytest.param("sm_90", 128, 227 * KIB + 1, 4, 0, id="shared: more than a block may have"),
        pytest.param("sm_90", 256, 0, 4, 0, id="registers: more than a thread may have"),
        pytest.param("sm_90", 16, 0, 33, 0, id="warps: more than a block may have"),
        pytest.param("sm_80", 64, 0, 8, 32, id="registers: 2048 a warp, 8 a quarter"),
        pytest.param("sm_80", 64, 40 * KIB, 4, 16, id="shared: exactly 164 // 41 = 4 blocks"),
        pytest.param("sm_80", 96, 32 * KIB, 4, 16, id="shared: 164 // 33 = 4 blocks, registers allow 5"),
        pytest.param("sm_70", 32, 32 * KIB, 4, 12, id="shared: nothing reserved, 96 // 32 = 3 blocks"),
        pytest.param("sm_70", 32, 32 * KIB + 1, 4, 8, id="shared: up to a multiple of 256"),
        pytest.param("sm_75", 16, 0, 1, 16, id="blocks: 16 of one warp"),
        pytest.param("sm_75", 64, 0, 8, 32, id="full: 32 warps of 64 registers"),
        pytest.param("sm_86", 40, 0, 8, 48, id="full: 48 warps of 40 registers"),
        pytest.param("sm_86", 16, 0, 2, 32, id="blocks: 16 of two warps"),
        pytest.param("sm_89", 16, 0, 2, 48, id="full: 24 blocks of two warps"),
        pytest.param("sm_120", 128, 48 * KIB, 4, 8, id="shared: 100 // 49 = 2 blocks"),
        pytest.param("sm_120", 16, 99 * KIB, 32, 32, id="warps: 48 // 32 = 1 block"),
        pytest.param("sm_100", 80, 0, 4, 24, id="registers: 2560 a warp, 6 a quarter"),
        # 512 VGPRs a lane, in eights, feed at most 8 waves of each of four SIMDs; LDS: units of 512, gfx950 of 1280.
        pytest.param("gfx90a", 64, 0, 4, 32, id="full: 8 waves of 64 registers"),
        pytest.param("gfx90a", 65, 0, 4, 28, id="registers: 65 become 72, 512 // 72 = 7 a SIMD"),
        pytest.param("gfx942", 128, 0, 4, 16, id="registers: 4 a SIMD"),
        pytest.param("gfx942", 512, 0, 4, 4, id="registers: one wave a SIMD"),
        pytest.param("gfx942", 512, 0, 8, 0, id="registers: a block of 8 waves needs 2 a SIMD"),
        pytest.param("gfx942", 513, 0, 1, 0, id="registers: more than a lane has"),
        pytest.param("gfx942", 32, 32 * KIB, 4, 8, id="LDS: 64 // 32 = 2 blocks"),
        pytest.param("gfx942", 32, 32 * KIB + 1, 4, 4, id="LDS: one byte more costs a block"),
        pytest.param("gfx942", 32, 0, 1, 32, id="full: 32 blocks of one wave"),
        pytest.param("gfx942", 32, 0, 16, 32, id="full: the largest block twice"),
        pytest.param("gfx942", 32, 0, 17, 0, id="waves: more than a block may have"),
        pytest.param("gfx950", 32, 32 * KIB, 4, 16, id="LDS: 32768 become 33280, 163840 // 33280 = 4"),
        pytest.param("gfx950", 32, 160 * KIB, 4, 4, id="LDS: all of it"),
    ],
)
def test_occupancy_is_what_one_works_out_by_hand(
    target: str, registers: int, shared: int, warps: int, resident: int
) -> None:
    architecture = ARCHITECTURES[target]
    assert occupancy(target, registers, shared, warps) == resident / architecture.max_warps
    assert occupancy(architecture, registers, shared, warps) == resident / architecture.max_warps


@EVERY_ARCHITECTURE
def test_occupancy_never_grows_with_what_a_block_takes(target: str) -> None:
    row = ARCHITECTURES[target]
    by_registers = [occupancy(row, registers, 0, 4) for registers in range(1, row.max_registers_per_thread + 2)]
    by_shared = [occupancy(row, 32, shared, 4) for shared in range(0, row.shared_limit + KIB, 512)]
    for curve in (by_registers, by_shared):
        assert curve[0] == 1
        assert curve == sorted(curve, reverse=True)
        assert curve[-1] == 0 < curve[-3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sm_90", 0, 0, 4), r"registers_per_thread: expected at least 1, got 0"),
        (("sm_90", 32, -1, 4), r"shared_bytes_per_block: expected at least 0, got -1"),
        (("sm_90", 32, 0, 0), r"warps_per_block: expected at least 1, got 0"),
        (("sm_91", 32, 0, 4), r"architecture: expected one of sm_70, .*gfx950, got 'sm_91'"),
    ],
)
def test_occupancy_says_what_was_wrong(arguments: tuple[str, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        occupancy(*arguments)


def test_find_keeps_the_order_asked_for_and_ignores_case() -> None:
    assert [gpu.key for gpu in find(["H200", "a100-80", "Mi300X"])] == ["h200", "a100-80", "mi300x"]
    assert find([]) == []


def test_find_names_the_unknown_beside_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown GPU 'h300', 'A200'; the table holds v100, t4, .*mi355x") as caught:
        find(["h200", "h300", "A200"])
    assert "'h200'" not in str(caught.value)


@pytest.mark.parametrize(
    ("device_name", "key"),
    [
        ("Tesla V100-SXM2-16GB", "v100"),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("Tesla T4", "t4"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("nvidia h200 ", "h200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 5090", "rtx5090"),
        ("AMD Instinct MI250X", "mi250x"),
        ("AMD Instinct MI300X", "mi300x"),
        ("AMD Instinct MI325X", "mi325x"),
        ("AMD Instinct MI355X", "mi355x"),
    ],
)
def test_named_knows_what_drivers_call_the_boards(device_name: str, key: str) -> None:
    assert named(device_name) is GPUS[key]


def test_every_gpu_can_be_named() -> None:
    assert list(hardware._DEVICE_NAMES) == list(GPUS)


@pytest.mark.parametrize(
    "device_name",
    [
        "",
        "cpu",
        "NVIDIA A10G",
        "NVIDIA A100-PCIE-40GB",
        "NVIDIA A100 80GB PCIe",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA H100 NVL",
        "NVIDIA GH200 480GB",
        "NVIDIA H200 NVL",
        "NVIDIA GB200",
        "NVIDIA L40",
        "Tesla V100-PCIE-16GB",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 5090 D",
        "AMD Instinct MI300A",
        "AMD Instinct MI250X / MI250",
    ],
)
def test_named_takes_no_relative_for_the_board_itself(device_name: str) -> None:
    assert named(device_name) is None


@EVERY_GPU
def test_as_dict_holds_plain_values_only(gpu: Gpu) -> None:
    plain = as_dict(gpu)
    assert json.loads(json.dumps(plain)) == plain
    assert set(plain) == {*Gpu.__dataclass_fields__, "special", "launch_s"}
    peaks = plain["peaks"]
    assert isinstance(peaks, dict)
    assert {type(value) for value in (*plain.values(), *peaks.values())} <= {str, int, float, dict}
    assert plain["bandwidth"] == gpu.bandwidth.value
    assert peaks == pytest.approx({dtype: figure.value for dtype, figure in gpu.peaks.items()}, rel=1e-9)
    rate = ARCHITECTURES[gpu.architecture].special_per_clock.value
    assert plain["special"] == pytest.approx(gpu.processors.value * rate * gpu.clock_hz.value, rel=1e-9)
    assert plain["launch_s"] == LAUNCH.value


def test_figures_that_are_easily_taken_for_others() -> None:
    (h200, a100, b200, mi250x) = find(["h200", "a100-80", "b200", "mi250x"])
    assert (h200.bandwidth.value, h200.peaks["bf16"].value, h200.processors.value) == (4.8e12, 989e12, 132)
    assert h200.l2_bytes.value == 60 * 2**20  # not the 50 MiB of an H100
    assert a100.bandwidth.value == 2.039e12
    assert b200.peaks["fp8"].value == 4.5e15  # not the 9 PFLOP/s with sparsity
    assert mi250x.processors.value == 220  # both dies


def test_a_launch_is_between_the_overhead_of_a_graph_node_and_a_launch_from_the_host() -> None:
    assert 0.5e-6 < LAUNCH.value < 2.9e-6
