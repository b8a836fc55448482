"""Sweeps on a Slurm that keeps accounts: what has left the queue is asked of `sacct`."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm import queue, slurm_array
from sweeps.launching import ledger, retry, status
from tests.slurm.test_slurm import (
    GRID,
    PROFILE,
    ROOT,
    Cluster,
    job_id,
    results,
    run,
    run_dirs,
    short_folder,
    wait_until,
    why_not,
)

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a grid of four runs and a profile, on a cluster that soon forgets and has an account of all."""
    programs = ("slurmdbd", "mariadbd", "mariadb", "mariadb-install-db")
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [program for program in programs if not shutil.which(program, path=path)]
    if reason := why_not() or (f"no accounting ({', '.join(missing)} not found)" if missing else ""):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("accounts")
    cluster = Cluster(short_folder(), ACCOUNTING="1", EXTRA_CONF="MinJobAge=2")
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(queue, "_FORGOTTEN_AFTER_S", 2.0)
    monkeypatch.chdir(folder)
    Path("four.yaml").write_text(GRID.replace("base: {", "base: {measure: {latency: false}, "))
    Path("profile.yaml").write_text(PROFILE)
    try:
        cluster.do("up")
        yield folder
    finally:
        cluster.do("down")
        shutil.rmtree(cluster.conf.parent, ignore_errors=True)


def test_what_has_left_the_queue_is_in_the_accounts(folder: Path, capsys: pytest.CaptureFixture, monkeypatch):
    run("endless", "--only", "seed=0", "--no-wait")
    job = job_id(run_dirs()[0])
    wait_until(lambda: (run_dirs()[0] / "metrics.jsonl").exists())
    queue.cancel([job])
    wait_until(lambda: queue.jobs() == {})
    assert queue.final_state(job) == "CANCELLED"
    monkeypatch.setattr(slurm_array, "_FRESH_S", 2.0)
    status.main([])
    assert job in (shown := capsys.readouterr().out) and "lost" in shown and "CANCELLED" in shown
    assert run("ok", "--only", "seed=0") == 1
    assert results()[0].status == "skipped" and results()[0].reason.startswith("Slurm says CANCELLED")
    status.main([])
    assert "four: 1 runs, 1 skipped" in capsys.readouterr().out

    assert retry.main(["four"]) == 0
    assert "1 of 1 runs will be computed again" in capsys.readouterr().out
    wait_until(lambda: results()[0] is not None, seconds=120)
    assert results()[0].status == "ok", results()[0].reason
    assert [event["event"] for event in ledger.read(run_dirs()[0])].count("start") == 2
