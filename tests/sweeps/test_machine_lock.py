import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from sweeps import machine_lock

HOLD = """
import sys, time
from pathlib import Path
from sweeps import machine_lock
with getattr(machine_lock, sys.argv[1])():
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


WAIT = """
import sys
from sweeps import machine_lock
machine_lock.PATIENCE_S, machine_lock.REPEAT_S = 0.1, 0.2
with getattr(machine_lock, sys.argv[1])(): pass
"""


@pytest.mark.parametrize(
    ("holds", "waits", "said"),
    [
        ("shared", "exclusive", r"waiting to time for \d+ s: process {pid} has been in a training step since "),
        ("exclusive", "shared", r"waiting to train for \d+ s: process {pid} has been timing since "),
        ("exclusive", "exclusive", r"waiting to time for \d+ s: process {pid} has been timing since "),
    ],
)
def test_who_waits_says_for_whom_and_since_when_and_keeps_saying_so(hold, holds, waits, said):
    holder = hold(holds, "holder")
    holder.wait_in()
    with subprocess.Popen([sys.executable, "-c", WAIT, waits], stderr=subprocess.PIPE, text=True) as waiting:
        for _ in range(3):
            line = waiting.stderr.readline()
            assert re.match(said.format(pid=holder.process.pid) + r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \(\d+ s\): ", line)
            assert line.rstrip().endswith("holder"), "the command, with all its arguments"
        holder.let_go()
        assert waiting.wait(30) == 0


def test_a_stopped_holder_is_said_to_be_stopped(hold, monkeypatch):
    holder = hold("shared", "holder")
    holder.wait_in()
    holder.process.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: psutil.Process(holder.process.pid).status() == psutil.STATUS_STOPPED)
        (found,) = in_folder_of(hold, machine_lock.holders)
        assert found.pid == holder.process.pid and " and is stopped: " in str(found)
    finally:
        holder.process.send_signal(signal.SIGCONT)


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def in_folder_of(hold, call):
    """Calls something with the temporary folder that holders have; this process has looked up its own before."""
    before, tempfile.tempdir = tempfile.tempdir, None
    try:
        return call()
    finally:
        tempfile.tempdir = before


def test_all_holders_are_told_and_those_that_are_gone_are_not(hold, tmp_path):
    holders = [hold("shared", name) for name in ("first", "second")]
    for holder in holders:
        holder.wait_in()
    assert {found.pid for found in in_folder_of(hold, machine_lock.holders)} == {h.process.pid for h in holders}
    holders[0].process.kill()
    holders[0].process.wait()
    assert [found.pid for found in in_folder_of(hold, machine_lock.holders)] == [holders[1].process.pid]
    holders[1].let_go()
    assert in_folder_of(hold, machine_lock.holders) == []
    assert {path.name for path in tmp_path.glob("dualformer-*/*")} == {"machine", "turnstile"}, "nothing piles up"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"pid": 1}', '{"pid": 1, "began": 0, "command": "", "purpose": "time", "since": 0}']
)
def test_notes_that_say_nothing_are_nobody(hold, tmp_path, text):
    hold("shared", "first").wait_in()
    (folder,) = tmp_path.glob("dualformer-*")
    (folder / "holder-1-1").write_text(text)
    assert len(in_folder_of(hold, machine_lock.holders)) == 1


FORK = """
import os, sys, time
from pathlib import Path
from sweeps import machine_lock
with machine_lock.exclusive():
    if os.fork() == 0:
        Path(sys.argv[1], "child").write_text(str(os.getpid()))
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


def test_a_killed_holder_lets_go_although_what_it_forked_lives_on(hold, tmp_path):
    """A loader that is stuck in a broken file, say."""
    hold("shared", "first").let_go()
    parent = subprocess.Popen([sys.executable, "-c", FORK, str(tmp_path)])
    wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
    child = int((tmp_path / "child").read_text())
    try:
        parent.kill()
        parent.wait()
        assert psutil.pid_exists(child)
        hold("exclusive", "second").wait_in()
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_forked_process_lets_its_parent_hold_on(hold, tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", FORK, str(tmp_path)])
    wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
    later = hold("shared", "later")
    time.sleep(1.5)
    assert not later.is_in
    parent.kill()
    parent.wait()
    later.wait_in()


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The folder that this process would take, in a temporary folder of its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"dualformer-{os.getuid()}"


def another_users(path):
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)


def open_to_all(path):
    path.mkdir()
    path.chmod(0o777)


def link_to_a_folder(path):
    (path.parent / "elsewhere").mkdir(mode=0o700)
    path.symlink_to(path.parent / "elsewhere")


def with_a_planted_link(path):
    path.mkdir(mode=0o700)
    (path / "machine").symlink_to(path.parent / "planted")


def no_folder(path):
    path.write_text("")


@pytest.mark.parametrize("plant", [another_users, open_to_all, link_to_a_folder, with_a_planted_link, no_folder])
@pytest.mark.parametrize("holds", [machine_lock.shared, machine_lock.exclusive])
def test_a_folder_that_cannot_be_trusted_is_left_alone_and_another_one_taken(places, plant, holds):
    if plant is another_users and os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    plant(places)
    with holds():
        (found,) = machine_lock.holders()
    assert found.pid == os.getpid()
    assert not (places.parent / "planted").exists() and not list(places.parent.glob("elsewhere/*"))
    other = places.with_name(f"{places.name}-1")
    assert {path.name for path in other.iterdir()} == {"machine", "turnstile"}
    assert other.stat().st_mode & 0o777 == 0o700


def test_processes_meet_in_the_other_folder(hold, tmp_path):
    (tmp_path / f"dualformer-{os.getuid()}").symlink_to("nowhere")
    hold("exclusive", "first").wait_in()
    second = hold("shared", "second")
    time.sleep(1.5)
    assert not second.is_in


def test_no_place_at_all_names_every_place(monkeypatch):
    monkeypatch.setattr(machine_lock, "_places", lambda: iter([Path("/proc/none"), Path("/dev/null/none")]))
    with pytest.raises(OSError, match=r"no folder .*/proc/none: .*; /dev/null/none: .*TMPDIR"), machine_lock.shared():
        pass
