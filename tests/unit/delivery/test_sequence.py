from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ml_inference.delivery import sequence
from ml_inference.delivery.sequence import JUMP, Sequence


def test_it_goes_on_after_an_end_and_after_a_kill_without_a_number_twice_or_left_out(tmp_path: Path) -> None:
    path = tmp_path / "sequence"
    first = Sequence(path)
    assert [first.next() for _ in range(3)] == [1, 2, 3]
    first.close()
    killed = (
        "import os, sys; from pathlib import Path; from ml_inference.delivery.sequence import Sequence\n"
        "numbers = Sequence(Path(sys.argv[1])); numbers.next(); numbers.hold(7); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", killed, str(path)], check=False, timeout=60)
    again = Sequence(path)
    assert again.next() == 5
    assert again.lost == 7
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_after_a_power_cut_it_jumps_since_the_last_numbers_may_be_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, boot = tmp_path / "sequence", tmp_path / "boot_id"
    monkeypatch.setattr(sequence, "BOOT_ID", boot)
    boot.write_text("first")
    Sequence(path).next()
    boot.write_text("second")
    numbers = Sequence(path)
    assert numbers.next() == 1 + JUMP + 1
    numbers.close()
    boot.write_text("third")  # it was closed: nothing is unknown
    assert Sequence(path).next() == 1 + JUMP + 2


@pytest.mark.parametrize("damage", [b"?", bytes(65), os.urandom(200)])
def test_a_damaged_file_is_followed_by_numbers_beyond_all_before(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "sequence"
    path.write_bytes(damage)
    numbers = Sequence(path)
    first = numbers.next()
    assert first > 1_000 * (time.time() - 60)
    assert Sequence(path).next() == first + 1


def test_without_a_file_it_counts_all_the_same(tmp_path: Path) -> None:
    numbers = Sequence(tmp_path / "nowhere" / "sequence")
    first = numbers.next()
    numbers.hold(3)
    assert numbers.next() == first + 1
    numbers.close()
