"""What attention requests of memory is its tile formula, to the byte; docs/counting.md explains it."""

from __future__ import annotations

from typing import Any

import pytest

from bench import bench_attention
from bench.core.baseline import FILE, Baseline
from bench.core.case import Case
from kernels import _attention_backward, attention

CASES = [case for case in bench_attention.Attention.counted_cases() if case.mode == "fwd"]


def tiles(tuned: Any, case: Case) -> tuple[int, int]:
    """BLOCK_M and BLOCK_N of a kernel's first configuration, with which it is counted."""
    config = tuned[case.sizes["causal"], False, 2, max(64, case.sizes["head_dim"])].configs[0].kwargs
    return config["BLOCK_M"], config["BLOCK_N"]


def visited(length: int, block: int, causal: bool) -> int:
    """Keys that the query tiles of one head walk over together (queries, from the other side: the same sum)."""
    count = length // block
    return block * count * (count + 1) // 2 if causal else count * length


def of_launch(case: Case, mode: str, kernel: str) -> dict[str, Any]:
    launches = Baseline(FILE).get(("cases", "attention", f"{mode}-{case.slug}", "triton"))
    assert launches is not None
    (found,) = (launch for name, launch in launches.items() if name.endswith(kernel))
    return {argument: moved["requested"] for argument, moved in (found["read"] | found["written"]).items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.slug)
def test_the_forward_reads_keys_once_per_query_tile(case: Case) -> None:
    heads, length, dim = (case.sizes[name] for name in ("num_heads", "q_len", "head_dim"))
    block, _ = tiles(attention.FORWARD, case)
    rows = heads * length * dim * 2
    keys = heads * visited(length, block, case.sizes["causal"]) * dim * 2
    assert of_launch(case, "fwd", "_forward_kernel") == {
        "q_ptr": rows,
        "k_ptr": keys,
        "v_ptr": keys,
        "o_ptr": rows,
        "lse_ptr": heads * length * 4,
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.slug)
def test_the_backward_reads_queries_once_per_key_tile(case: Case) -> None:
    heads, kv_heads, length, dim = (case.sizes[name] for name in ("num_heads", "num_kv_heads", "q_len", "head_dim"))
    block_m, block_n = tiles(_attention_backward.KEY, case)
    keys = kv_heads * length * dim * 2
    first = [start // block_m * block_m if case.sizes["causal"] else 0 for start in range(0, length, block_n)]
    seen = sum(length - start for start in first)
    assert of_launch(case, "bwd", "_key_kernel") == {
        "k_ptr": keys,
        "v_ptr": keys,
        "q_ptr": heads * seen * dim * 2,
        "do_ptr": heads * seen * dim * 2,
        "lse_ptr": heads * seen * 4,
        "delta_ptr": heads * seen * 4,
        "grad_ptrs[0]": keys,
        "grad_ptrs[1]": keys,
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.slug)
def test_the_other_half_of_the_backward_reads_keys_once_per_query_tile(case: Case) -> None:
    heads, length, dim = (case.sizes[name] for name in ("num_heads", "q_len", "head_dim"))
    block, _ = tiles(_attention_backward.QUERY, case)
    rows = heads * length * dim * 2
    keys = heads * visited(length, block, case.sizes["causal"]) * dim * 2
    assert of_launch(case, "bwd", "_query_kernel") == {
        "q_ptr": rows,
        "do_ptr": rows,
        "dq_ptr": rows,
        "k_ptr": keys,
        "v_ptr": keys,
        "lse_ptr": heads * length * 4,
        "delta_ptr": heads * length * 4,
    }
