"""The counter agrees with what a reader of each kernel in counted.py would count by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from triton.runtime.interpreter import InterpreterBuilder

from bench.core.child import Child, ChildFailed
from bench.core.count import ACCESS, ATOMICS, Launch, Moved
from tests import counted


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    child = Child(counted.serve, {"TRITON_INTERPRET": "1"})
    yield child
    child.stop()


def _only(child: Child, name: str) -> Launch:
    """The one launch of a kernel; what made its inputs counts as well."""
    (launches,) = child.ask(name)
    (launch,) = (launch for launch in launches if not launch.kernel.startswith("aten::"))
    assert isinstance(launch, Launch)
    return launch


def test_masked_lanes_count_and_others_do_not(child: Child) -> None:
    launch = _only(child, "copy")
    assert (launch.kernel, launch.programs) == ("copy", 2)
    assert launch.read == {"x_ptr": Moved(400, 400)}
    assert launch.written == {"y_ptr": Moved(400, 400)}
    assert launch.access == {"pointer.load": 400, "pointer.store": 400}
    assert not launch.flops
    assert not launch.special
    assert not launch.dots


def test_a_second_read_is_requested_but_leaves_the_footprint(child: Child) -> None:
    launch = _only(child, "read_twice")
    assert launch.read == {"x_ptr": Moved(800, 400)}
    assert launch.flops == {"add": 128}, "all lanes compute, masked or not"


def test_a_mask_that_a_scalar_is_part_of_is_a_mask(child: Child) -> None:
    launch = _only(child, "copy_if")
    assert launch.read == {"x_ptr": Moved(400, 400)}
    assert launch.written == {"y_ptr": Moved(400, 400)}


def test_scalars_count_once_per_program(child: Child) -> None:
    launch = _only(child, "scalar")
    assert launch.read == {"x_ptr": Moved(24, 8)}
    assert launch.written == {"y_ptr": Moved(24, 8)}


@pytest.mark.parametrize(
    ("name", "way", "size"),
    [
        ("block_pointer", "block_pointer", 480),
        ("descriptor", "descriptor", 240),
        ("host_descriptor", "descriptor", 480),
    ],
)
def test_blocks_are_cut_at_their_boundary(child: Child, name: str, way: str, size: int) -> None:
    if name == "block_pointer" and not hasattr(InterpreterBuilder, "create_make_block_ptr"):
        pytest.skip("this version of Triton does not interpret block pointers (3.9 was the first)")
    launch = _only(child, name)
    assert launch.access == {f"{way}.load": size, f"{way}.store": size}
    assert list(launch.read.values()) == [Moved(size, size)]
    assert list(launch.written.values()) == [Moved(size, size)]


def test_gathered_rows_count_each_time(child: Child) -> None:
    launch = _only(child, "gather")
    assert launch.read == {"x_ptr": Moved(8 * 64, 64)}
    assert launch.written == {"y_ptr": Moved(8 * 64, 8 * 64)}
    assert launch.access == {"descriptor.load": 512, "descriptor.store": 512}


def test_atomics_read_and_write(child: Child) -> None:
    launch = _only(child, "atomic")
    moved = {"total_ptr": Moved(2 * 10 * 4, 16), "flag_ptr": Moved(2 * 4, 4)}
    assert launch.read == moved
    assert launch.written == moved
    assert launch.access == {"atomic.load": 88, "atomic.store": 88}


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "int8", "fp32", "tf32"])
def test_dots_count_by_the_dtype_of_their_operands(child: Child, dtype: str) -> None:
    launch = _only(child, f"dot-{dtype}")
    assert launch.dots == {dtype: 2 * 16 * 64 * 32}


def test_operations_count_by_kind(child: Child) -> None:
    launch = _only(child, "arithmetic")
    lanes = 4 * 8
    # x * x - x / 3; max(fma, 0); exp2 + rsqrt(|x| + 1); y += sum + max; y += largest
    assert launch.flops == {
        "multiply": lanes,
        "divide": lanes,
        "fma": 2 * lanes,
        "maximum": lanes,
        "magnitude": lanes,
        "add": lanes + 2 * lanes + 2 * lanes + lanes,
        "reduce.sum": 4 * 7,
        "reduce.max": 8 * 3,
        "reduce.larger": 4 * 7,
        "scan.sum": 4 * 7,
    }
    assert launch.special == {"exp2": lanes, "rsqrt": lanes}


def test_bytes_seen_through_two_dtypes_are_one_footprint(child: Child) -> None:
    launch = _only(child, "bits")
    assert launch.read == {"x_ptr": Moved(64 + 16, 64)}


def test_arguments_that_share_storage_share_an_account(child: Child) -> None:
    launch = _only(child, "halves")
    assert launch.read == {"a_ptr+b_ptr": Moved(128, 128)}


@pytest.mark.parametrize(("name", "what"), [("out_of_bounds", "read"), ("written_out_of_bounds", "written")])
def test_reaching_beyond_an_argument_is_an_error(child: Child, name: str, what: str) -> None:
    with pytest.raises(
        ChildFailed, match=f"copy_unmasked: expected every byte {what} to belong to an argument, got 112"
    ):
        list(child.ask(name))


def test_what_torch_moves_counts_as_launches(child: Child) -> None:
    (launches,) = child.ask("torch")
    moved = {launch.kernel: (launch.read, launch.written) for launch in launches}
    assert [launch.kernel for launch in launches] == [
        "aten::ones", "aten::copy_", "aten::sum", "aten::_to_copy", "aten::add", "aten::zero_", "copy",
    ]  # fmt: skip
    assert moved["aten::ones"] == ({}, {"outputs": Moved(128, 128)})
    assert moved["aten::copy_"] == ({"inputs": Moved(128, 128)}, {"outputs": Moved(128, 128)})
    assert moved["aten::sum"] == ({"inputs": Moved(128, 128)}, {"outputs": Moved(16, 16)})
    assert moved["aten::_to_copy"] == ({"inputs": Moved(16, 16)}, {"outputs": Moved(8, 8)})
    assert moved["aten::add"] == ({"inputs": Moved(16, 16)}, {"outputs": Moved(128, 128)})
    assert moved["aten::zero_"] == ({}, {"outputs": Moved(128, 128)})


def test_every_way_to_memory_is_known() -> None:
    """A way that a new version of Triton brings would go uncounted."""
    words = ("load", "store", "atomic", "descriptor", "gather", "scatter")
    ways = {name for name in vars(InterpreterBuilder) if name.startswith("create_") and any(w in name for w in words)}
    plain = {"create_load", "create_store", "create_masked_load", "create_masked_store"}
    moves_nothing = {"create_gather", "create_make_tensor_descriptor"}
    assert ways <= plain | moves_nothing | set(ACCESS) | set(ATOMICS)
