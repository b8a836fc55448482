import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeps import machine_lock

HOLD = """
import sys, time
from pathlib import Path
from sweeps import machine_lock
with getattr(quiet, sys.argv[1])():
    Path(sys.argv[2], f"{sys.argv[3]}.in").write_text(repr(time.monotonic()))
    deadline = time.monotonic() + 30
    while not Path(sys.argv[2], f"{sys.argv[3]}.go").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    Path(sys.argv[2], f"{sys.argv[3]}.out").write_text(repr(time.monotonic()))
"""


class Holder:
    """A process that holds the machine until told to let go."""

    def __init__(self, folder: Path, mode: str, name: str) -> None:
        self.folder, self.name = folder, name
        self.process = subprocess.Popen([sys.executable, "-c", HOLD, mode, str(folder), name])

    def wait_in(self) -> float:
        return self._wait("in")

    def let_go(self) -> float:
        (self.folder / f"{self.name}.go").touch()
        self.process.wait(30)
        return self._wait("out")

    @property
    def is_in(self) -> bool:
        return (self.folder / f"{self.name}.in").exists()

    def _wait(self, event: str) -> float:
        path = self.folder / f"{self.name}.{event}"
        deadline = time.monotonic() + 30
        while not (path.exists() and path.read_text()):
            assert time.monotonic() < deadline, f"{path.name} did not come"
            time.sleep(0.01)
        return float(path.read_text())


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    holders = []

    def hold(mode: str, name: str) -> Holder:
        holders.append(Holder(tmp_path, mode, name))
        return holders[-1]

    yield hold
    for holder in holders:
        holder.process.kill()
        holder.process.wait()


def test_steps_go_side_by_side(hold):
    first, second = hold("shared", "first"), hold("shared", "second")
    first.wait_in()
    second.wait_in()


def test_a_timing_waits_for_steps_and_keeps_later_ones_out(hold):
    step = hold("shared", "step")
    step.wait_in()
    timing = hold("exclusive", "timing")
    time.sleep(0.5)
    later = hold("shared", "later")
    time.sleep(0.5)
    assert not timing.is_in and not later.is_in, "the timing waits for the step, the later step for the timing"
    step_out = step.let_go()
    assert timing.wait_in() >= step_out
    time.sleep(0.2)
    assert not later.is_in
    timing_out = timing.let_go()
    assert later.wait_in() >= timing_out


def test_a_killed_holder_lets_go(hold):
    first = hold("exclusive", "first")
    first.wait_in()
    first.process.kill()
    hold("exclusive", "second").wait_in()


def test_nesting_is_refused_instead_of_waiting_for_oneself():
    with machine_lock.shared(), pytest.raises(RuntimeError, match="don't nest"), machine_lock.exclusive():
        pass
    with machine_lock.exclusive():
        pass


def test_who_waits_for_long_says_so(hold):
    training = hold("shared", "training")
    training.wait_in()
    code = "from sweeps import machine_lock; machine_lock.PATIENCE_S = 0.1\nwith machine_lock.exclusive(): pass"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as timing:
        assert "waiting to time: for 0.1 s a run of this machine" in timing.stderr.readline()
        training.let_go()
        assert timing.wait(30) == 0 and timing.stderr.read() == ""
