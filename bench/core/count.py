"""What a call costs, exactly: the bytes and operations of every kernel launch, counted under Triton's interpreter.

Bytes are those of lanes whose mask is true, by argument: `requested` counts every access, `footprint` every byte once
per launch, so that re-reads show. Operations are those of all lanes of a tile, masked or not, as hardware does them:
those on floating-point numbers by kind (a fused multiply-add is two), those of dots by the dtype of their operands, and
exp, log, rsqrt and their like (one special-function operation each) apart. Addresses, indices and comparisons of
integers are not counted. What torch runs around the kernels counts as launches too: each input read once, each output
written once, and of its operations those of products.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from triton.runtime import interpreter

from bench.core.case import DTYPE_NAMES

Array = NDArray[Any]

ARITHMETIC = {
    "create_fadd": "add", "create_fsub": "add", "create_fneg": "negate", "create_fmul": "multiply",
    "create_fdiv": "divide", "create_precise_divf": "divide", "create_approx_divf": "divide",
    "create_frem": "remainder", "create_fma": "fma", "create_fabs": "magnitude", "create_floor": "round",
    "create_ceil": "round", "create_minimumf": "minimum", "create_minnumf": "minimum", "create_maximumf": "maximum",
    "create_maxnumf": "maximum", "create_clampf": "clamp",
}  # fmt: skip
WEIGHT = {"fma": 2, "clamp": 2}
SPECIAL = ("exp", "exp2", "log", "log2", "sin", "cos", "sqrt", "precise_sqrt", "rsqrt", "erf")
# How memory is reached, by the method of the interpreter's builder that does it. Masked accesses are what all of them
# but the atomics end in.
ACCESS = {
    "create_tensor_pointer_load": "block_pointer", "create_tensor_pointer_store": "block_pointer",
    "create_descriptor_load": "descriptor", "create_descriptor_store": "descriptor",
    "create_descriptor_gather": "descriptor", "create_descriptor_scatter": "descriptor",
    "create_atomic_load": "atomic", "create_atomic_store": "atomic", "create_atomic_poll": "atomic",
}  # fmt: skip
ATOMICS = ("create_atomic_rmw", "create_atomic_cas")
# Those that read or write nothing themselves.
ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "set_", "resize_")
OVERWRITES = ("fill_", "zero_", "copy_")


class OutOfBounds(Exception):  # noqa: N818 - it reads as what happened
    """A kernel reached for memory that belongs to none of its arguments, or for a misaligned address."""


@dataclass
class Moved:
    """Bytes that one launch moves of one argument: every access counted, and every byte counted once."""

    requested: int = 0
    footprint: int = 0


@dataclass
class Launch:
    """One launch. kernel: its name, or `aten::` and that of a torch operator; programs: the size of its grid.

    read, written: bytes by argument. access: requested bytes by the way they were reached (`pointer.load`, ...). flops,
    dots, special: operations by kind, by dtype of the operands and by function.
    """

    kernel: str
    programs: int = 1
    read: dict[str, Moved] = field(default_factory=dict)
    written: dict[str, Moved] = field(default_factory=dict)
    access: Counter[str] = field(default_factory=Counter)
    flops: Counter[str] = field(default_factory=Counter)
    dots: Counter[str] = field(default_factory=Counter)
    special: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """All but its name, without what it has nothing of, as JSON can hold it."""
        found: dict[str, Any] = {"programs": self.programs}
        for name in ("read", "written"):
            found[name] = {argument: vars(moved) for argument, moved in getattr(self, name).items()}
        for name in ("access", "flops", "dots", "special"):
            found[name] = dict(getattr(self, name))
        return {name: value for name, value in found.items() if value}


@contextmanager
def counting() -> Iterator[list[Launch]]:
    """Inside, launches are counted as they run; gives the list of them. Needs `TRITON_INTERPRET=1` and CPU tensors."""
    counter = _Counter()
    with ExitStack() as patches:
        for target, name, replacement in counter.patches():
            patches.enter_context(patch.object(target, name, replacement, create=True))
        patches.enter_context(_TorchLaunches(counter))
        yield counter.launches


class _Region:
    """The memory of one or more arguments of a launch, and which of its elements were read and written."""

    def __init__(self, start: int, size: int) -> None:
        self.start, self.stop = start, start + size
        self.names: list[str] = []
        self._seen: dict[tuple[str, int], NDArray[np.bool_]] = {}

    @property
    def name(self) -> str:
        return "+".join(self.names)

    def mark(self, what: str, addresses: Array, itemsize: int) -> None:
        """Note that elements at these addresses were `read` or `written`."""
        seen = self._seen.get((what, itemsize))
        if seen is None:
            seen = self._seen[what, itemsize] = np.zeros(-(-(self.stop - self.start) // itemsize), np.bool_)
        seen[(addresses - np.uint64(self.start)) // np.uint64(itemsize)] = True

    def footprint(self, what: str) -> int:
        """The bytes that were touched at least once."""
        maps = {itemsize: seen for (kind, itemsize), seen in self._seen.items() if kind == what}
        if len(maps) == 1:
            ((itemsize, seen),) = maps.items()
            return int(seen.sum()) * itemsize
        touched = np.zeros(self.stop - self.start, np.bool_)
        for itemsize, seen in maps.items():
            touched |= np.repeat(seen, itemsize)[: len(touched)]
        return int(touched.sum())


class _Counter:
    """Wraps the interpreter: who launches, what is loaded and stored, what is computed."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self.running: Launch | None = None
        self._regions: list[_Region] = []
        self._grid: tuple[int, ...] = ()
        self._access = "pointer"
        self._inside = False  # of something that is counted as a whole

    def patches(self) -> Iterator[tuple[Any, str, Callable[..., Any]]]:
        """What to replace, and by what."""
        builder = interpreter.InterpreterBuilder
        yield interpreter.GridExecutor, "__call__", self._launch(interpreter.GridExecutor.__call__)
        yield builder, "create_masked_load", self._masked("read", builder.create_masked_load)
        yield builder, "create_masked_store", self._masked("written", builder.create_masked_store)
        yield builder, "create_dot", self._dot(builder.create_dot)
        for name in ATOMICS:
            yield builder, name, self._atomic(getattr(builder, name))
        for name, access in ACCESS.items():
            if hasattr(builder, name):
                yield builder, name, self._reached_by(access, getattr(builder, name))
        for name, kind in ARITHMETIC.items():
            if hasattr(builder, name):
                yield builder, name, self._elementwise("flops", kind, getattr(builder, name))
        for function in SPECIAL:
            name = f"create_{function}"
            yield builder, name, self._elementwise("special", function, getattr(builder, name))
        for kind, interface in (("reduce", interpreter.ReduceOps), ("scan", interpreter.ScanOps)):
            yield interface, "apply_impl", self._combined(kind, interface.apply_impl)

    def _launch(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        def launch(executor: Any, *arguments: Any, **named: Any) -> None:
            grid = executor.grid
            if callable(grid):
                executor.grid = lambda bound: self._noted(grid(bound))
            else:
                executor.grid = self._noted(grid)
            self.running = Launch(executor.fn.__name__)
            self._regions = _regions(dict(zip(executor.arg_names, arguments, strict=False)) | named)
            stock(executor, *arguments, **named)
            for what, moved in (("read", self.running.read), ("written", self.running.written)):
                for region in self._regions:
                    if region.name in moved:
                        moved[region.name].footprint = region.footprint(what)
            self.launches.append(self.running)
            self.running, self._regions = None, []

        def guarded(executor: Any, *arguments: Any, **named: Any) -> None:
            # Copies that the interpreter makes of arguments are none of the call's.
            self._inside = True
            self._grid = ()
            try:
                launch(executor, *arguments, **named)
            finally:
                self.running, self._inside = None, False
            self.launches[-1].programs = prod(self._grid)

        return guarded

    def _noted(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        self._grid = tuple(grid)
        return self._grid

    def _masked(self, what: str, stock: Callable[..., Any]) -> Callable[..., Any]:
        at = 1 if what == "read" else 2  # (pointers, mask, ...) or (pointers, values, mask, ...)

        def masked(builder: Any, *arguments: Any, **named: Any) -> Any:
            pointers, mask = arguments[0], arguments[at]
            bare = isinstance(mask, np.ndarray)  # as block pointers and descriptors hand it over
            self._move(what, pointers, mask if bare else mask.data)
            return stock(builder, *arguments, **named)

        return masked

    def _atomic(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        """Atomics read and write what they touch."""

        def atomic(builder: Any, *arguments: Any) -> Any:
            # (pointers, expected, values, ...) of a compare-and-swap, else (operation, pointers, values, mask, ...)
            swaps = isinstance(arguments[0], interpreter.TensorHandle)
            pointers, mask = (arguments[0], np.array(True)) if swaps else (arguments[1], arguments[3].data)
            with self._reaching("atomic"):
                self._move("read", pointers, mask)
                self._move("written", pointers, mask)
            return stock(builder, *arguments)

        return atomic

    def _move(self, what: str, pointers: Any, mask: Array) -> None:
        launch = self._launched()
        itemsize = interpreter._get_np_dtype(pointers.get_element_ty()).itemsize
        addresses = pointers.data
        # Of a condition and a scalar one the interpreter makes integers, which would choose by place.
        mask = np.broadcast_to(np.asarray(mask, dtype=bool), addresses.shape)
        addresses = addresses.reshape(-1) if mask.all() else addresses[mask]
        if not addresses.size:
            return
        launch.access[f"{self._access}.{'load' if what == 'read' else 'store'}"] += addresses.size * itemsize
        for region, part in self._located(addresses, itemsize, what):
            moved: dict[str, Moved] = getattr(launch, what)
            moved.setdefault(region.name, Moved()).requested += part.size * itemsize
            region.mark(what, part, itemsize)

    def _located(self, addresses: Array, itemsize: int, what: str) -> Iterator[tuple[_Region, Array]]:
        if (addresses % np.uint64(itemsize)).any():
            raise OutOfBounds(f"{self._launched().kernel}: expected addresses aligned to {itemsize} bytes")
        low, high = int(addresses.min()), int(addresses.max()) + itemsize
        for region in self._regions:
            if region.start <= low and high <= region.stop:
                yield region, addresses
                return
        for region in self._regions:
            inside = (addresses >= region.start) & (addresses + np.uint64(itemsize) <= region.stop)
            if inside.any():
                yield region, addresses[inside]
                addresses = addresses[~inside]
        if addresses.size:
            raise OutOfBounds(
                f"{self._launched().kernel}: expected every byte {what} to belong to an argument, "
                f"got {addresses.size * itemsize} that do not"
            )

    def _dot(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        def dot(builder: Any, a: Any, b: Any, total: Any, precision: Any, *options: Any) -> Any:
            dtype = str(a.dtype.scalar)
            if dtype == "fp32":
                dtype = {"IEEE": "fp32", "TF32": "tf32"}.get(_last(precision), _last(precision).lower())
            self._launched().dots[dtype] += 2 * total.data.size * a.data.shape[-1]
            return stock(builder, a, b, total, precision, *options)

        return dot

    def _elementwise(self, group: str, kind: str, stock: Callable[..., Any]) -> Callable[..., Any]:
        weight = WEIGHT.get(kind, 1)

        def elementwise(builder: Any, *arguments: Any) -> Any:
            result = stock(builder, *arguments)
            if self._access != "combine":
                getattr(self._launched(), group)[kind] += weight * result.data.size
            return result

        return elementwise

    def _combined(self, kind: str, stock: Callable[..., Any]) -> Callable[..., Any]:
        def combined(operation: Any, inputs: Any) -> Any:
            first = inputs[0]
            if first.dtype.is_floating():
                name = getattr(operation.combine_fn, "fn", operation.combine_fn).__name__
                name = name.strip("_").removeprefix("elementwise_").removesuffix("_tie_break_left")
                size = first.handle.data.size
                axis = operation.axis
                rows = 1 if axis is None else size // first.handle.data.shape[axis]
                self._launched().flops[f"{kind}.{name.removesuffix('_combine')}"] += size - rows
            with self._reaching("combine"):
                return stock(operation, inputs)

        return combined

    def _reached_by(self, access: str, stock: Callable[..., Any]) -> Callable[..., Any]:
        def reached(builder: Any, *arguments: Any, **named: Any) -> Any:
            with self._reaching(access):
                return stock(builder, *arguments, **named)

        return reached

    @contextmanager
    def _reaching(self, access: str) -> Iterator[None]:
        before, self._access = self._access, access
        yield
        self._access = before

    def _launched(self) -> Launch:
        assert self.running is not None
        return self.running

    def torch_launch(self, name: str, read: int, written: int, dots: Counter[str]) -> None:
        """Note what torch moves and multiplies by itself."""
        if not self._inside and (read or written):
            launch = Launch(f"aten::{name}")
            launch.read = {"inputs": Moved(read, read)} if read else {}
            launch.written = {"outputs": Moved(written, written)} if written else {}
            launch.dots = dots
            self.launches.append(launch)


class _TorchLaunches(TorchDispatchMode):
    """Notes every torch operator that moves data: neither views nor allocations do."""

    def __init__(self, counter: _Counter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counter = counter

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        name, schema = function._schema.name.removeprefix("aten::"), function._schema
        views = any(value.alias_info and not value.alias_info.is_write for value in schema.returns)
        if name in ALLOCATIONS or views:
            return result
        given = [*args, *(kwargs or {}).values()]
        sources = [value for value in _tensors(given) if not (name in OVERWRITES and value is args[0])]
        outputs = list(_tensors([result]))
        # `.to` and its like hand back what needs no change.
        if any(value is source for value in outputs for source in sources) and not schema.is_mutable:
            return result
        dots: Counter[str] = Counter()
        if function.overloadpacket in flop_registry:
            operations = flop_registry[function.overloadpacket](*args, **(kwargs or {}), out_val=result)
            dots[DTYPE_NAMES[sources[0].dtype]] = operations
        self._counter.torch_launch(name, sum(map(_bytes, sources)), sum(map(_bytes, outputs)), dots)
        return result


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _bytes(value: Tensor) -> int:
    """The bytes of a tensor's distinct elements: an expanded dimension repeats them."""
    sizes = zip(value.shape, value.stride(), strict=True)
    return prod(size if stride or not size else 1 for size, stride in sizes) * value.element_size()


def _regions(arguments: dict[str, Any]) -> list[_Region]:
    """The memory of every tensor among the arguments of a launch; those that share storage share a region."""
    found: dict[int, _Region] = {}

    def visit(name: str, value: Any) -> None:
        if isinstance(value, tuple | list):
            for index, part in enumerate(value):
                visit(f"{name}[{index}]", part)
        elif hasattr(value, "base") and hasattr(value, "block_shape"):  # a tensor descriptor
            visit(name, value.base)
        elif isinstance(value, Tensor):
            storage = value.untyped_storage()
            region = found.setdefault(storage.data_ptr(), _Region(storage.data_ptr(), storage.nbytes()))
            region.names.append(name)

    for name, value in arguments.items():
        visit(name, value)
    return list(found.values())


def _last(value: Any) -> str:
    """The name of a member of one of Triton's enumerations."""
    return str(getattr(value, "name", value)).rpartition(".")[2]
