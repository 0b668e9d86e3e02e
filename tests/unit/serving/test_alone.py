"""Two processes of the component in one work directory."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_inference.serving.alone import be_alone

HOLD = "import sys; from pathlib import Path; from ml_inference.serving.alone import be_alone; be_alone(Path(sys.argv[1])); print('in', flush=True); sys.stdin.read()"


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is at work in the folder until it is killed."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"in\n"
        yield process
        process.kill()


def test_the_second_process_begins_when_the_first_has_ended_however_it_did(
    tmp_path: Path, other: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    waits = 0

    def sleep(_: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 3:
            other.kill()
            other.wait()

    with caplog.at_level(logging.INFO):
        be_alone(tmp_path, sleep=sleep)
    assert waits == 3
    assert [record.message for record in caplog.records] == ["waiting for the process before to end"]


def test_a_process_that_hangs_is_not_waited_for_for_ever(
    tmp_path: Path, other: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    be_alone(tmp_path, wait=20.0, sleep=sleep, monotonic=lambda: now)
    assert 20.0 <= now < 21.0
    assert other.poll() is None
    assert "is still at work" in caplog.text


def test_where_no_lock_can_be_the_component_starts_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    be_alone(tmp_path / "not-there")
    assert "cannot find out" in caplog.text
