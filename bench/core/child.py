"""A replaceable child process: asked one thing at a time, it answers in messages, and its death is an answer too."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

import psutil

Serve = Callable[[Any], Iterator[Any]]

STALL_S = 60.0
TIMEOUT_S = 600.0
LOOK_EVERY_S = 0.5
GONE = (psutil.NoSuchProcess, psutil.AccessDenied)  # a process may end while it is looked at
_STARTING = threading.Lock()  # the environment is the process', and several threads may start children


class ChildDied(Exception):  # noqa: N818 - it reads as what happened
    """The child ended, or was ended because it hung, before it had answered. The next question goes to a new one."""


class OutOfTime(ChildDied):
    """The child was ended because the time it was given was over."""


class ChildFailed(Exception):  # noqa: N818 - as above
    """An error inside the child, which lives on; its traceback there is in the notes."""


class Child:
    """Runs `serve(request) -> messages` in a fresh interpreter (spawned, so that no CUDA context is shared).

    serve must be a module's top-level function. environment: variables to set (or, with None, to remove) in the child.
    """

    def __init__(self, serve: Serve, environment: Mapping[str, str | None] | None = None) -> None:
        self._serve = serve
        self._environment = dict(environment or {})
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._owes = False  # whether it has not answered in full yet

    def ask(
        self, request: Any, stall_s: float = STALL_S, timeout_s: float = TIMEOUT_S, until: float | None = None
    ) -> Iterator[Any]:
        """The child's messages in answer.

        Raises `ChildDied` if it ends, if it stalls (`stall_s` seconds without a message and without work: neither it
        nor a process of its own used a processor) or if a message takes longer than `timeout_s`, and `OutOfTime` at
        `until` on the monotonic clock. An error inside `serve` is raised here as `ChildFailed`.
        """
        pipe = self._started()
        self._owes = True
        try:
            pipe.send(request)
            while True:
                self._wait(pipe, stall_s, timeout_s, until)
                kind, content = pipe.recv()
                self._owes = kind == "message"
                if kind == "done":
                    return
                if kind == "error":
                    raise content
                yield content
        except (EOFError, ConnectionError):
            raise ChildDied(self._epitaph()) from None

    def stop(self) -> None:
        """End the child and what it started, at once."""
        if self._process is not None:
            for each in reversed(_family(self._process.pid)):
                with suppress(*GONE):
                    each.kill()
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None
        self._owes = False

    def _wait(self, pipe: Connection, stall_s: float, timeout_s: float, until: float | None) -> None:
        """Until there is a message, or the child is ended because none will come."""
        began = sign = monotonic()
        work_s = 0.0
        while not pipe.poll(min(LOOK_EVERY_S, stall_s, timeout_s)):
            if not self._alive() and not pipe.poll():  # something that it has started may still hold its end
                raise ChildDied(self._epitaph())
            now = monotonic()
            if (done_s := self._work_s()) > work_s:
                work_s, sign = done_s, now
            if until is not None and now > until:
                self._end(OutOfTime("the time it was given was over"))
            if now - sign > stall_s:
                self._end(ChildDied(f"stalled: no message and no work for {stall_s:.0f} s"))
            if now - began > timeout_s:
                self._end(ChildDied(f"time-out: at work without a result for {timeout_s:.0f} s"))

    def _end(self, reason: ChildDied) -> None:
        self.stop()
        raise reason

    def _work_s(self) -> float:
        """The processor time that the child and all that it started have used, in tenths of a second.

        A process that waits uses a little too.
        """
        assert self._process is not None
        total = 0.0
        for each in _family(self._process.pid):
            with suppress(*GONE):
                times = each.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return round(total, 1)

    def _alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def _started(self) -> Connection:
        """The pipe to a child that owes nobody an answer: one to an earlier question must not pass for this one's."""
        if self._pipe is None or self._owes or not self._alive():
            self.stop()
            context = multiprocessing.get_context("spawn")
            self._pipe, far_end = context.Pipe()
            with _STARTING, _environment(self._environment):
                self._process = context.Process(target=_answer, args=(self._serve, far_end), daemon=True)
                self._process.start()
            far_end.close()
        return self._pipe

    def _epitaph(self) -> str:
        """How the child ended, in words."""
        assert self._process is not None
        self._process.join(10)
        code = self._process.exitcode
        self.stop()
        if code == -signal.SIGKILL:
            return "killed with SIGKILL, as the kernel does when memory runs out"
        if code is not None and code < 0:
            return f"crashed with {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


def _family(pid: int | None) -> list[psutil.Process]:
    """A process and all that it started, as far as they live."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextmanager
def _environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """The environment changed for as long as it takes to start a process."""
    before = {name: os.environ.get(name) for name in changes}
    _set_environment(changes)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _answer(serve: Serve, pipe: Connection) -> None:
    """The child's life: answer one request after the other until the parent is gone.

    A terminal's ctrl-C goes to the parent and to the child; it is the parent who decides what becomes of the child.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, name="parent", daemon=True).start()
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        try:
            for message in serve(request):
                pipe.send(("message", message))
            pipe.send(("done", None))
        except Exception as error:  # noqa: BLE001 - handed to the parent, whatever it is
            pipe.send(("error", _portable(error)))


def _follow_parent() -> None:
    """End with the parent, even in the middle of a call: an orphan would disturb the run that is started next.

    Until then this thread sleeps in the kernel and disturbs nobody.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    for each in reversed(_family(os.getpid())[1:]):
        with suppress(*GONE):
            each.kill()
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """An exception that survives the way to the parent, with its traceback as a note."""
    told = ChildFailed(f"{type(error).__name__}: {error}")
    told.add_note("".join(traceback.format_exception(error)))
    return told
