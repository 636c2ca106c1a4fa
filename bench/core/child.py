"""A replaceable child process: asked one thing at a time, it answers in messages, and its death is an answer too."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

Serve = Callable[[Any], Iterator[Any]]

STALL_S = 300.0
_STARTING = threading.Lock()  # the environment is the process', and several threads may start children


class ChildDied(Exception):  # noqa: N818 - it reads as what happened
    """The child ended, or was ended because it stalled, before it had answered. The next question goes to a new one."""


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

    def ask(self, request: Any, stall_s: float = STALL_S) -> Iterator[Any]:
        """The child's messages in answer. Raises `ChildDied` if it ends or says nothing for `stall_s` seconds.

        An error inside `serve` is raised here as `ChildFailed`.
        """
        pipe = self._started()
        pipe.send(request)
        try:
            while True:
                if not pipe.poll(stall_s):
                    self.stop()
                    raise ChildDied(f"no sign of life for {stall_s:.0f} s")
                kind, content = pipe.recv()
                if kind == "done":
                    return
                if kind == "error":
                    raise content
                yield content
        except (EOFError, ConnectionError):
            raise ChildDied(self._epitaph()) from None

    def stop(self) -> None:
        """End the child, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _started(self) -> Connection:
        if self._process is None or self._pipe is None or not self._process.is_alive():
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
        if code is not None and code < 0:
            return f"crashed with {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


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
    """The child's life: answer one request after the other until the parent is gone."""
    while True:
        try:
            request = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            for message in serve(request):
                pipe.send(("message", message))
            pipe.send(("done", None))
        except Exception as error:  # noqa: BLE001 - handed to the parent, whatever it is
            pipe.send(("error", _portable(error)))


def _portable(error: Exception) -> Exception:
    """An exception that survives the way to the parent, with its traceback as a note."""
    told = ChildFailed(f"{type(error).__name__}: {error}")
    told.add_note("".join(traceback.format_exception(error)))
    return told
