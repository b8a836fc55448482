import errno
import subprocess
import sys
from pathlib import Path

import pytest

from slurm.job_id import JobId
from sweeps.launching import ledger

CLAIM = """
import sys, time
from pathlib import Path
from slurm.job_id import JobId
from sweeps.launching import ledger
with ledger.claim(Path(sys.argv[1])) as taken:
    print(taken, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def claimer(tmp_path: Path):
    """Another process that has claimed `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", CLAIM, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "True"
    yield process
    process.kill()
    process.wait()


def test_only_one_process_gets_a_run(tmp_path: Path, claimer: subprocess.Popen):
    assert ledger.is_claimed(tmp_path)
    with ledger.claim(tmp_path) as taken:
        assert not taken


def test_a_killed_process_lets_go(tmp_path: Path, claimer: subprocess.Popen):
    claimer.kill()
    with ledger.claim(tmp_path, wait_s=10) as taken:
        assert taken
    assert not ledger.is_claimed(tmp_path)


def test_a_run_nobody_touched_is_not_claimed(tmp_path: Path):
    assert not ledger.is_claimed(tmp_path)
    assert ledger.read(tmp_path) == []


def test_events_are_read_in_order_with_a_torn_line_left_out(tmp_path: Path):
    ledger.append(tmp_path, "submit", token="a")
    with open(tmp_path / "ledger.jsonl", "a") as file:
        file.write('{"event": "submi')
    ledger.append(tmp_path, "start", token="a")
    assert [event["event"] for event in ledger.read(tmp_path)] == ["submit", "start"]


def events(*names: str) -> list[dict]:
    """Events of submissions a, b, ... in turn: each "submit" opens the next."""
    tokens = iter("abcdef")
    token, made = "", []
    for name in names:
        token = next(tokens) if name == "submit" else token
        made.append({"event": name, "token": token, **({"job_id": f"slurm:{token}"} if name == "submitted" else {})})
    return made


@pytest.mark.parametrize(
    ("names", "token", "job_id"),
    [
        ([], None, None),
        (["submit"], "a", None),
        (["submit", "submitted"], "a", "slurm:a"),
        (["submit", "submitted", "start"], "a", "slurm:a"),
        (["submit", "submitted", "start", "end"], None, None),
        (["submit", "submitted", "lost", "submit"], "b", None),
        (["submit", "refused"], None, None),
        (["submit", "submitted", "start", "stopped"], None, None),
    ],
)
def test_open_submission_is_the_newest_not_known_to_have_ended(names: list[str], token: str | None, job_id: str | None):
    found = ledger.open_submission(events(*names))
    assert (found and found.token, str(found.job_id) if found and found.job_id else None) == (token, job_id)


def test_a_retry_counts_lost_attempts_afresh():
    assert ledger.num_lost(events("submit", "lost", "submit", "lost")) == 2
    assert ledger.num_lost(events("submit", "lost", "retry", "submit", "lost")) == 1


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(ledger.fcntl, "lockf", refuse)
    with pytest.raises(OSError, match="no file locks; put --runs elsewhere"), ledger.claim(tmp_path):
        pass


def test_a_retry_takes_a_cancellation_back():
    assert ledger.is_cancelled(events("submit", "cancelled"))
    assert not ledger.is_cancelled(events("submit", "cancelled", "retry"))
    assert not ledger.is_cancelled(events("cancelled", "retry", "submit", "submitted", "start", "lost"))
    assert ledger.is_cancelled(events("cancelled", "retry", "submit", "cancelled"))
    assert not ledger.is_cancelled(events("submit", "start"))


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "submit", "time": "2026-01-01T00:00:00+00:00"}',
        '{"event": "submitted", "time": "2026-01-01T00:00:00+00:00", "job_id": "slurm:1"}',
        '{"event": "submit", "time": "2026-01-01T00:00:00+00:00", "token": 3}',
        '{"event": "start", "token": "a"}',
        '{"event": 3, "time": "2026-01-01T00:00:00+00:00"}',
        '["submit"]',
        "17",
    ],
)
def test_a_line_that_is_no_event_is_passed_over_with_a_warning(tmp_path: Path, line: str, capsys):
    ledger.append(tmp_path, "submit", token="a")
    with open(tmp_path / "ledger.jsonl", "a") as file:
        file.write(f"{line}\n")
    ledger.append(tmp_path, "submitted", token="a", job_id=JobId("slurm", "7"))
    for _ in range(2):
        assert ledger.open_submission(ledger.read(tmp_path)).job_id == JobId("slurm", "7")
    assert capsys.readouterr().err.count("passed over a line that is no event") == 1


def test_a_submission_with_odd_values_is_one_all_the_same(tmp_path: Path):
    ledger.append(tmp_path, "submit", token="a", launcher="nobody", index="x", executor="of-another-version")
    ledger.append(tmp_path, "submitted", token="a", job_id="nothing")
    found = ledger.open_submission(ledger.read(tmp_path))
    assert (found.launcher, found.index, found.job_id) == (None, 0, None)
