"""The rules of the house that a machine can check: stems, import arrows, sizes of files, names of the field."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

import pytest
import torch

from bench.core.registry import operators

ROOT = Path(__file__).resolve().parents[1]

MAY_IMPORT = {
    "kernels": {"torch", "triton", "kernels"},
    "reference": {"torch", "reference"},
}
MAY_NOT_IMPORT = {
    "bench/core": {"kernels", "reference", "reports", "bench.models"},
    "bench": {"reports"},
    "reports": {"torch", "triton", "kernels", "reference", "bench"},
}


def _stems(room: str, prefix: str = "") -> set[str]:
    names = {path.stem for path in (ROOT / room).glob(f"{prefix}*.py")}
    return {name.removeprefix(prefix) for name in names if not name.removeprefix(prefix).startswith("_")}


def _imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it; `from bench import models` counts as bench.models."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: expected absolute imports, got a relative one"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def test_stems_are_equal() -> None:
    assert _stems("kernels") == _stems("reference") == _stems("bench", "bench_")
    assert _stems("kernels") >= {"attention", "rms_norm", "swiglu", "int8_matmul", "quantize_int8"}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_kernels_and_references_import_nothing_else(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        tops = {module.partition(".")[0] for module in _imports(path)}
        strangers = tops - MAY_IMPORT[room] - set(sys.stdlib_module_names)
        assert not strangers, f"{path.name} imports {strangers}"


@pytest.mark.parametrize("room", MAY_NOT_IMPORT)
def test_arrows_point_one_way(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        if path == ROOT / "bench" / "__main__.py":
            continue  # the front door: `python -m bench counts` shows what reports/ derives
        for module in _imports(path):
            wrong = [package for package in MAY_NOT_IMPORT[room] if _inside(module, package)]
            assert not wrong, f"{path.relative_to(ROOT)} imports {module}"


def test_an_operator_is_named_after_its_file_and_function() -> None:
    for operator in operators():
        stem = operator.__module__.removeprefix("bench.bench_")
        assert operator.entry.__module__ == f"kernels.{stem}"
        assert operator.reference.__module__ == f"reference.{stem}"
        assert operator.entry.__name__ == operator.reference.__name__ == operator.name()


def test_references_and_kernels_have_the_same_signature() -> None:
    for operator in operators():
        ours, theirs = (inspect.signature(function) for function in (operator.entry, operator.reference))
        assert list(ours.parameters) == list(theirs.parameters), operator.name()
        for name, parameter in ours.parameters.items():
            assert parameter.default == theirs.parameters[name].default, f"{operator.name()}: {name}"
            assert parameter.kind == theirs.parameters[name].kind, f"{operator.name()}: {name}"


def test_fp32_is_among_the_checks_of_every_operator_with_a_dtype() -> None:
    for operator in operators():
        dtypes = {axes.get("dtype", torch.float32) for axes in operator.checks}
        assert torch.float32 in dtypes, f"{operator.name()}: low precision proves only the casts"


@pytest.mark.parametrize(
    ("folder", "pattern", "limit"),
    [("kernels", "*.py", 250), ("bench", "bench_*.py", 230), ("bench/core", "*.py", 400)],
)
def test_files_stay_small(folder: str, pattern: str, limit: int) -> None:
    for path in (ROOT / folder).glob(pattern):
        assert len(path.read_text().splitlines()) <= limit, f"{path.name} does more than one thing"


def test_every_kernel_docstring_names_its_source() -> None:
    for operator in operators():
        text = ast.get_docstring(
            ast.parse((ROOT / "kernels" / f"{operator.entry.__module__.split('.')[1]}.py").read_text())
        )
        assert text, operator.name()
        assert "ource" in text or "arXiv" in text, f"{operator.name()}: the kernel's docstring cites no source"


def test_race_knows_nothing_of_pytest() -> None:
    for name in ("race.py", "clocks.py"):
        assert not {module for module in _imports(ROOT / "bench/core" / name) if _inside(module, "pytest")}
