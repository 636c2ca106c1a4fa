"""The doctor names what is missing together with the command that mends it."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.__main__ import app
from bench.core import doctor


def _versions(**found: str) -> Any:
    return lambda: {"torch": "2.13.0", "triton": "3.7.1", "numpy": "2.4.0"} | found


@pytest.mark.parametrize(
    ("found", "what", "remedy"),
    [
        ({"torch": "2.10.1"}, "torch", "pip install 'torch>=2.11'"),
        ({"triton": "3.5.0", "numpy": "2.3.0"}, "triton", "pip install 'triton>=3.6'"),
        ({"triton": "3.6.0", "numpy": "2.4.1"}, "numpy", "pip install 'numpy<2.4'"),
    ],
)
def test_versions_that_would_not_work_are_problems(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, str], what: str, remedy: str
) -> None:
    monkeypatch.setattr(doctor, "versions", _versions(**found))
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: False)  # type: ignore[attr-defined]
    problems = [finding for finding in doctor._versions() if finding.state == "problem"]
    assert [(finding.what, finding.remedy) for finding in problems] == [(what, remedy)]
    result = CliRunner().invoke(app, ["doctor", "--no-noise"], env={"COLUMNS": "200"})
    assert result.exit_code == 1
    assert remedy in result.output


def test_good_versions_are_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "versions", _versions())
    assert {finding.state for finding in doctor._versions()} == {"ok"}


@pytest.mark.parametrize(
    ("command", "package"),
    [
        ("pip install liger-kernel", "liger-kernel"),
        ("pip install 'liger-kernel>=0.8.5'", "liger-kernel"),
        ("pip install --pre flash-attn-4", "flash-attn-4"),
        ("pip install flash-attn --no-build-isolation", "flash-attn"),
        ("git clone somewhere && pip install ./there", ""),
    ],
)
def test_the_package_behind_a_command(command: str, package: str) -> None:
    assert doctor._package(command) == package


def test_every_peer_that_can_be_installed_is_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "liger-kernel":
            return "9.9"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", version)  # type: ignore[attr-defined]
    findings = {finding.what: finding for finding in doctor._peers()}
    assert len(findings) == len(doctor._peers())
    assert findings["liger-kernel"].state == "ok"
    version_found, _, named = findings["liger-kernel"].found.partition(", for ")
    assert version_found == "9.9"
    assert named.split(", ") == sorted({*named.split(", "), "add_rms_norm", "rms_norm", "swiglu"})
    assert findings["bitsandbytes"].remedy == "pip install bitsandbytes"
    assert findings["flash_attn_3"].remedy.startswith("git clone ")


def test_another_distribution_called_kernels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._strangers() == []
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.1" if name == "kernels" else "")  # type: ignore[attr-defined]
    (finding,) = doctor._strangers()
    assert "unrelated distribution kernels 0.1" in finding.found


@pytest.mark.parametrize(
    ("state", "mark", "words"),
    [
        (("abcdef", False), "ok", "abcdef"),
        (("abcdef", True), "missing", "dirty"),
        (("nocommit", None), "missing", "nocommit"),
    ],
)
def test_the_state_of_the_tree(
    monkeypatch: pytest.MonkeyPatch, state: tuple[str, bool | None], mark: str, words: str
) -> None:
    monkeypatch.setattr(doctor, "repository_state", lambda: state)
    (finding,) = doctor._tree()
    assert finding.state == mark
    assert words in finding.found


def test_list_refuses_what_it_does_not_know() -> None:
    lost = CliRunner().invoke(app, ["list", "nothing"], env={"COLUMNS": "200"})
    assert lost.exit_code == 2
    assert "expected part of one of " in lost.output
    assert "attention" in lost.output
    assert CliRunner().invoke(app, ["list", "--profile", "huge"]).exit_code == 2
