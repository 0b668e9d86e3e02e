"""Run by test_outbox.py in processes of its own: uses an outbox and is killed meanwhile, or has its disk taken away."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from ml_inference.delivery.outbox import file as outbox_file
from ml_inference.delivery.outbox import outbox as outbox_module
from ml_inference.delivery.outbox.outbox import Outbox, OutboxMessage

MAX_BYTES = 1_000_000
STEPS = 120


def work(path: Path, after_step: Callable[[Outbox], None]) -> None:
    """Put and remove in a fixed sequence, a transaction each: fill the outbox until messages expire, then drain it."""
    rng = random.Random(20)
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    for step in range(STEPS):
        if step >= STEPS * 3 // 4 or rng.random() < 0.05:
            outbox.remove([stored.sequence for stored in outbox.peek(10)])
        else:
            outbox.put(
                [
                    OutboxMessage(f"{step}-{n}", "t", rng.randbytes(rng.randrange(9_000)), 1, rng.random() < 0.2)
                    for n in range(rng.randrange(1, 5))
                ]
            )
        after_step(outbox)
    outbox.close()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_write(offset: int) -> None:
    """Die in the midst of the first write that reaches beyond an offset; what precedes the offset is written."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (offset, resource.RLIM_INFINITY))


def die_at_instruction(number: int) -> None:
    """Die at an instruction of SQLite's virtual machine."""
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        if counted == number:
            die()
        return 0

    def connect_counting(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.set_progress_handler(count, 1)
        return connection

    sqlite3.connect = connect_counting  # type: ignore[assignment]


def die_at_line(number: int) -> None:
    """Die at a line of the functions that replace a damaged file."""
    names = {"open_database", "replace_database", "finish_replacement", "_salvage", "_copy_messages", "_connect"}
    counted = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal counted
        if frame.f_code.co_filename != outbox_file.__file__ or frame.f_code.co_name not in names:
            return None
        if event == "line":
            counted += 1
            if counted == number:
                die()
        return trace

    sys.settrace(trace)


def tell(writer: int, _: Outbox) -> None:
    os.write(writer, b".")


def kill_many(task: str, kind: str, points: list[int], directory: Path) -> None:
    """Do the task in a process for each point, killed there; print how many steps each had done and its signal."""
    results = []
    for point in points:
        path = directory / f"{kind}-{point}" / "outbox.db"
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            with suppress(BaseException):
                os.close(reader)
                if kind != "moment":
                    globals()[f"die_at_{kind}"](point)
                if task == "work":
                    work(path, partial(tell, writer))
                else:
                    Outbox(path, max_bytes=MAX_BYTES)
                os._exit(0)
            os._exit(1)
        os.close(writer)
        done = 0
        while os.read(reader, 1):
            done += 1
            if kind == "moment" and done == point:
                os.kill(child, signal.SIGKILL)
        os.close(reader)
        _, status = os.waitpid(child, 0)
        results.append([done, os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)])
    print(json.dumps(results))  # noqa: T201


def lose_the_disk(how: str, amount: int, path: Path) -> None:
    """Store, be refused, be relieved and store again; print what happened."""
    ballast = path.parent.parent / "ballast"

    def take_away() -> None:
        if how == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (amount, resource.RLIM_INFINITY))
        else:
            with ballast.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(512))

    def give_back() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        ballast.unlink(missing_ok=True)

    def batch(name: str) -> list[OutboxMessage]:
        return [OutboxMessage(f"{name}-{n}", "t", bytes(1_000), 1, False, weight=2) for n in range(10)]

    def ids() -> list[str]:
        return [stored.message.id for stored in outbox.peek(10_000)]

    outbox = Outbox(path, max_bytes=MAX_BYTES)
    accepted = batch("before")
    outbox.put(accepted)
    take_away()
    for attempt in range(100):
        messages = batch(f"short-{attempt}")
        report = outbox.put(messages)
        if report.refusal:
            break
        accepted += messages
    kept = [message.id for message in accepted]
    facts: dict[str, Any] = {
        "refusal": report.refusal,
        "expired": [report.expired.messages, report.expired.weight],
        "kept": ids() == kept,
        "removed": outbox.remove([stored.sequence for stored in outbox.peek(3)]).messages,
        "not again": ids() == kept[3:],
        "waiting": outbox.waiting.messages == len(kept) - 3,
        "refused again": bool(outbox.put(batch("refused")).refusal),
    }
    give_back()
    facts["relieved"] = outbox.put(batch("after")).refusal
    outbox.close()
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    facts["reopened"] = ids() == kept[3:] + [message.id for message in batch("after")]
    facts["problems"] = list(outbox.problems)
    print(json.dumps(facts))  # noqa: T201


def fill_until_refused(limit: int, path: Path) -> None:
    """Put until no file can grow any more; print what happened."""
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    put = largest = 0
    refused = False
    while not refused and put < 3_000:
        refused = bool(
            outbox.put([OutboxMessage(f"{put + n}", "t", bytes(1_000), 1, False) for n in range(10)]).refusal
        )
        put += 10
        largest = max(largest, sum(file.stat().st_size for file in path.parent.iterdir()))
    accounted = (
        outbox.waiting.messages + outbox.expired.messages == put and len(outbox.peek(put)) == outbox.waiting.messages
    )
    print(json.dumps({"refused": refused, "largest": largest, "accounted": accounted}))  # noqa: T201


def shrink_after_refused_removals(path: Path) -> None:
    """Remove while the disk refuses, then make the outbox smaller; print what happened."""
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    messages = [OutboxMessage(str(n), "t", bytes(1_000), 1, False) for n in range(300)]
    outbox.put(messages)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    facts: dict[str, Any] = {"removed": outbox.remove([stored.sequence for stored in outbox.peek(3)]).messages}
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    expired = outbox.resize(MAX_BYTES // 4).messages
    ids = [stored.message.id for stored in outbox.peek(1_000)]
    facts["expired and waiting"] = expired + outbox.waiting.messages
    facts["waiting"] = outbox.waiting.messages == len(ids)
    facts["bounded"] = sum(file.stat().st_size for file in path.parent.iterdir()) <= MAX_BYTES // 4
    facts["order"] = ids == [message.id for message in messages[3 + expired :]]
    print(json.dumps(facts))  # noqa: T201


def replace_without_room(path: Path) -> None:
    """Open a damaged outbox where its replacement does not fit; print what happened."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    facts = {"problems": list(outbox.problems), "waiting": outbox.waiting.messages, "lost": outbox.lost.messages}
    outbox.close()
    print(json.dumps({**facts, "files": [file.name for file in path.parent.iterdir()]}))  # noqa: T201


def start_without_disk(path: Path) -> None:
    """Open an outbox where nothing can be written, use it, return to the disk once that works; print what happened."""
    outbox_module._RETRY_SECONDS = 0.0
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    messages = [OutboxMessage("a", "t", b"x", 1, False)]
    facts: dict[str, Any] = {"refusal": outbox.put(messages).refusal, "problems": list(outbox.problems)}
    facts["removed"] = outbox.remove([stored.sequence for stored in outbox.peek(1)]).messages
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    outbox.put(messages)
    outbox.close()
    facts["reopened"] = [stored.message.id for stored in Outbox(path, max_bytes=MAX_BYTES).peek(10)]
    print(json.dumps(facts))  # noqa: T201


def use_without_permission(path: Path) -> None:
    """Open an outbox as a user who may not write there; print what happened."""
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    outbox = Outbox(path, max_bytes=MAX_BYTES)
    report = outbox.put([OutboxMessage("a", "t", b"x", 1, False)])
    facts = {"refusal": report.refusal, "ids": [stored.message.id for stored in outbox.peek(10)]}
    outbox.close()
    print(json.dumps({**facts, "problems": list(outbox.problems), "lost": outbox.lost.messages}))  # noqa: T201


TASKS: dict[str, Callable[..., None]] = {
    "kill_many": kill_many,
    "lose_the_disk": lose_the_disk,
    "fill_until_refused": fill_until_refused,
    "replace_without_room": replace_without_room,
    "shrink_after_refused_removals": shrink_after_refused_removals,
    "start_without_disk": start_without_disk,
    "use_without_permission": use_without_permission,
}

if __name__ == "__main__":
    *plain, last = json.loads(sys.argv[2])
    TASKS[sys.argv[1]](*plain, Path(last))
