"""How many warps of a kernel reside in a processor at once, worked out from what one block of it takes."""

from __future__ import annotations

from bench.hardware import ARCHITECTURES, Architecture

MAX_BLOCK_THREADS = 1024  # threads in one block, on every architecture of the table


def _architecture(target: str) -> Architecture:
    if target not in ARCHITECTURES:
        raise ValueError(f"architecture: expected one of {', '.join(ARCHITECTURES)}, got {target!r}")
    return ARCHITECTURES[target]


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value!r}")


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def occupancy(
    architecture: Architecture | str,
    registers_per_thread: int,
    shared_bytes_per_block: int,
    warps_per_block: int,
) -> float:
    """Theoretical occupancy: the warps that can reside in a processor at once, as a share 0 ... 1 of its `max_warps`.

    It counts as cuda_occupancy.h does: registers by warp and sub-partition, shared memory with what the system reserves
    and with the largest share of the L1 cache given to it. On AMD it counts VGPRs with AGPRs, and LDS, as LLVM does;
    scalar registers, which can cost one wave of eight, are left out. It is 0 where a block cannot reside at all.

    Args:
        architecture: a row of `ARCHITECTURES` or its key.
        registers_per_thread: as the compiler reports them, not rounded; on AMD VGPRs and AGPRs together.
        shared_bytes_per_block: static and dynamic, without what the system reserves.
        warps_per_block: of `warp_size` threads each.

    Raises:
        ValueError: an unknown key, or a number below its least (1 register, 0 bytes, 1 warp).
    """
    if isinstance(architecture, str):
        architecture = _architecture(architecture)
    _at_least("registers_per_thread", registers_per_thread, 1)
    _at_least("shared_bytes_per_block", shared_bytes_per_block, 0)
    _at_least("warps_per_block", warps_per_block, 1)
    if (
        registers_per_thread > architecture.max_registers_per_thread
        or shared_bytes_per_block > architecture.shared_limit
        or warps_per_block * architecture.warp_size > MAX_BLOCK_THREADS
    ):
        return 0.0
    blocks = min(
        architecture.max_blocks,
        architecture.max_warps // warps_per_block,
        _warps_by_registers(architecture, registers_per_thread) // warps_per_block,
        _blocks_by_shared(architecture, shared_bytes_per_block),
    )
    return blocks * warps_per_block / architecture.max_warps


def _warps_by_registers(architecture: Architecture, registers_per_thread: int) -> int:
    """Every sub-partition takes whole warps from its own registers; AMD counts those of a lane, NVIDIA of an SM."""
    own, wanted = architecture.registers, registers_per_thread
    if architecture.vendor == "nvidia":
        own, wanted = own // architecture.simds, wanted * architecture.warp_size
    return own // _round_up(wanted, architecture.register_unit) * architecture.simds


def _blocks_by_shared(architecture: Architecture, shared_bytes_per_block: int) -> int:
    taken = _round_up(shared_bytes_per_block + architecture.shared_reserved, architecture.shared_unit)
    return architecture.shared_bytes // taken if taken else architecture.max_blocks
