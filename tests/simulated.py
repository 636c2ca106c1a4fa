"""Results as files, and what reports make of them: for tests of reports."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
from typer.testing import CliRunner, Result

from reports.__main__ import app
from reports.judge.derive import derive
from reports.read.counts import Counts
from reports.read.load import Results, load
from reports.site.site import render
from reports.site.story import Story

MIB = 1 << 20


def a_record(
    provider: str, length: int, *, operator: str = "rms_norm", mode: str = "fwd", **changes: Any
) -> dict[str, Any]:
    role = {"naive": "reference", "inductor": "reference", "triton": "kernel"}.get(provider, "peer")
    record = {
        "id": f"{operator}/{mode}/llama3-8b-seq_len{length}-bf16/{provider}",
        "operator": operator,
        "mode": mode,
        "case": {"model": "llama3-8b", "seq_len": length, "dtype": "bf16"},
        "sizes": {"rows": length, "cols": 4096, "dtype": "bf16"},
        "provider": provider,
        "role": role,
        "status": "measured",
        "reason": "",
        "remedy": "",
        "traffic_bytes": 16 * MIB * length // 512,
        "flops": 4 * MIB * length // 512,
        "timer": "host",
        "other_samples_s": {},
        "proof": {"error": 1.0, "budget": 4.0, "rows": "all"},
        "memory": {"peak_bytes": 8 * MIB, "output_bytes": 8 * MIB},
        "setup_s": 0.1,
        "stop": {"rounds": 7, "reason": "precise", "half_width": 0.01},
        "device": "Simulated",
        "commit": "0123456789abcdef",
        "dirty": False,
        "command": f'pytest "bench/bench_rms_norm.py::RmsNorm::test_speed[{mode}-{length}-{provider}]"',
        "schema": 2,
    }
    return record | changes


def a_file(
    folder: Path,
    measured: Sequence[tuple[dict[str, Any], Any]],
    absent: Sequence[dict[str, Any]] = (),
    **facts: Any,
) -> Path:
    started = facts.get("started", "2026-01-01T00:00:00Z")
    path = folder / "results" / "simulated" / f"{re.sub('[-:]', '', started)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    run = {
        "schema": 2,
        "device": {"name": "Simulated", "kind": "cpu", "cores": 2, "memory_bytes": 16 << 30},
        "versions": {"torch": "2.13.0"},
        "commit": "0123456789abcdef",
        "dirty": False,
        "command": "pytest bench --benchmark-only",
        "profile": "smoke",
        "started": started,
        "overhead": 0.01,
        "absent": list(absent),
    }
    benchmarks = [{"name": "x", "extra_info": {"record": record}, "stats": {"data": data}} for record, data in measured]
    path.write_text(json.dumps({"benchmarks": benchmarks, "rooftile": run | facts}))
    return path


def around(median: float) -> list[float]:
    return [median * factor for factor in (0.97, 0.98, 0.99, 1.0, 1.01, 1.02, 1.03)]


def load_files(*paths: Path) -> Results:
    return load([[path] for path in paths])


def rows_of(*paths: Path) -> pd.DataFrame:
    results = load_files(*paths)
    return derive(results.rows, results.runs)


def story_of(*paths: Path, counts: Counts | None = None) -> Story:
    results = load_files(*paths)
    return Story(results, derive(results.rows, results.runs), counts)


def site_of(*paths: Path, counts: Counts | None = None) -> dict[str, str]:
    return render(story_of(*paths, counts=counts))


def index_of(*paths: Path, counts: Counts | None = None) -> str:
    return site_of(*paths, counts=counts)["index.html"]


def page_of(*paths: Path, counts: Counts | None = None, operator: str = "rms_norm") -> str:
    return site_of(*paths, counts=counts)[f"operator-{operator}.html"]


def words_of(page: str) -> str:
    """What a page says, without markup, drawings and double spaces."""
    page = re.sub(r"<style>.*?</style>|<script>.*?</script>|<svg.*?</svg>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def command(*arguments: object, columns: int = 120) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": str(columns)})


class Reader(HTMLParser):
    """Follows a page's elements: which are left open, ids, links inside the page and to others (with their anchors)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.pages: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [str(value) for name, value in attrs if name == "id"]
        self.links |= {str(value)[1:] for name, value in attrs if name.endswith("href") and str(value)[:1] == "#"}
        self.pages |= {str(value) for name, value in attrs if tag == "a" and name == "href" and str(value)[:1] != "#"}
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.remove(tag) if tag in self.open else None

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
