"""A child answers, ends, or is ended; its parent knows what happened, and the next question is heard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from bench.core import child
from bench.core.child import Child, ChildDied
from bench.core.record import ROOT


def serve(request: Any) -> Iterator[Any]:
    """What each request of the tests below asks for."""
    match request:
        case ("echo", *words):
            yield from words
        case "leave somebody behind":
            if os.fork() == 0:
                time.sleep(30)  # with the pipe in its hands
                os._exit(0)
            os.kill(os.getpid(), signal.SIGSEGV)
        case "interrupt":
            yield os.getpid()
            time.sleep(1)
            yield "not disturbed"
        case "sleep":
            yield os.getpid()
            time.sleep(600)


@pytest.fixture
def asked() -> Iterator[Child]:
    """A child that serves the above."""
    started = Child(serve)
    yield started
    started.stop()


def test_what_an_earlier_question_left_unsaid_answers_no_later_one(asked: Child) -> None:
    first = asked.ask(("echo", "one", "two", "three"))
    assert next(first) == "one"  # and whoever asked was interrupted, as by an error in a declaration
    assert list(asked.ask(("echo", "four"))) == ["four"]
    assert list(asked.ask(("echo", "five"))) == ["five"]


def test_a_crash_is_told_as_one_even_if_something_holds_on_to_the_pipe(asked: Child) -> None:
    began = time.monotonic()
    with pytest.raises(ChildDied, match="crashed with SIGSEGV"):
        list(asked.ask("leave somebody behind"))
    assert time.monotonic() - began < 25, "expected not to wait for the one who was left behind"


def test_the_terminals_interrupt_is_for_the_parent(asked: Child) -> None:
    answers = asked.ask("interrupt")
    os.kill(next(answers), signal.SIGINT)
    assert list(answers) == ["not disturbed"]


PARENT = """
from bench.core.child import Child
from tests.test_child import serve

if __name__ == "__main__":
    for pid in Child(serve).ask("sleep"):
        print(pid, flush=True)
"""


def test_nobody_outlives_a_parent_that_was_killed(tmp_path: Any) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        orphan = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    gone, alive = psutil.wait_procs([orphan], timeout=20)
    assert gone
    assert not alive, "expected the child, which sleeps for ten minutes, to end with its parent"


def test_a_stall_and_a_time_out_are_told_apart(asked: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "LOOK_EVERY_S", 0.1)
    with pytest.raises(ChildDied, match="stalled: no message and no work for 3 s"):
        list(asked.ask("sleep", stall_s=3.0))
    with pytest.raises(ChildDied, match="time-out: at work without a result for 3 s"):
        list(asked.ask("sleep", timeout_s=3.0))
    assert list(asked.ask(("echo", "six"))) == ["six"]
