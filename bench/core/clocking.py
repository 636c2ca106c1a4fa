"""The parent's side of clocking one case: whoever breaks the race is out, and the others start again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.core.child import Child, ChildDied, ChildFailed, OutOfTime
from bench.core.memory import NO_MEMORY
from bench.core.messages import Begun, Message, Out, Request, Timed

NOBODY = b"\xff"


def clocked(child: Child, request: Request, until: float | None = None) -> Iterator[Message]:
    """All that is to be said of a case: in the end each provider has a `Timed` or an `Out`.

    until: when, on the monotonic clock, there is no more time. Then `OutOfTime` is raised, saying what it ended.
    """
    providers = list(request.providers)
    with tempfile.NamedTemporaryFile() as flight:
        while providers:
            Path(flight.name).write_bytes(NOBODY)
            begun, settled = Begun("", "start"), set()
            asked = replace(request, providers=tuple(providers), flight=flight.name)
            try:
                for message in child.ask(asked, timeout_s=request.options.row_timeout_s, until=until):
                    match message:
                        case Begun():
                            begun = message
                        case Out(provider) | Timed(provider):
                            settled.add(provider)
                    yield message
            except OutOfTime:
                raise OutOfTime(f"{begun.phase} {begun.provider}".strip()) from None
            except (ChildDied, ChildFailed) as end:
                child.stop()  # an error that nobody expected may have poisoned its CUDA context
                turn = Path(flight.name).read_bytes()[0]
                culprit = begun.provider or (providers[turn] if turn < len(providers) else "")
                for name in [culprit] if culprit else providers:
                    if name not in settled:  # its own word comes first
                        settled.add(name)
                        yield _out(name, end)
            else:
                return
            providers = [name for name in providers if name not in settled]


def _out(name: str, end: ChildDied | ChildFailed) -> Out:
    """What ended a provider's race: memory that could not hold it beside its rivals, or an error."""
    text = str(end)
    scarce = text.startswith(("OutOfMemoryError: ", "MemoryError: ")) or any(words in text for words in NO_MEMORY)
    if isinstance(end, ChildFailed) and scarce:
        return Out(name, "absent", "out of memory beside its rivals")
    return Out(name, "failed", text)
