"""One attempt at a run, in the process that a launcher or Slurm started: claim it, compute it unless it is there."""

from __future__ import annotations

import os
import shutil
import socket
import traceback
from pathlib import Path

from submitit.core.utils import UncompletedJobError

from dualformer.results import layout
from dualformer.results.files import RecordError, is_disk_full, utc_now
from dualformer.results.result import Result, read_result, write_result
from slurm.task import LostContact, leads, resolve
from sweeps import source
from sweeps.launching import ledger, snapshot

WORKER = "sweeps.run:execute"
LOG_HEADER = "=== attempt"
_WAIT_FOR_CLAIM_S = 20.0  # a job that Slurm queued again may start while its last process is still being killed


def attempt(run_dir: str, token: str, worker: str = WORKER, code: str = "") -> None:
    """Computes a run unless it is finished or another process is at it.

    Args:
        run_dir: the run's folder, with its `config.json`.
        token: of the submission, as in the ledger.
        worker: function that takes the folder and writes `result.json`, as "package.module:function".
        code: name of the copy of the code that was launched; "" for whatever this process runs.

    Raises:
        RecordError: the result could not be written; the run counts as not finished.
        LostContact: another process of the run died without a word; likewise.
        UncompletedJobError: submitit gave up a job that ran into its time limit too often.
    """
    folder = Path(run_dir)
    if not leads():
        resolve(worker)(folder)  # with the process that leads the job, which claims the run for all of them
        return
    with ledger.claim(folder, wait_s=_WAIT_FOR_CLAIM_S) as taken:
        if not taken:
            ledger.append(folder, "busy", token=token)
            print(f"{folder.name}: another process is at it")
            return
        if read_result(folder) is not None:
            ledger.append(folder, "found", token=token)
            return
        ledger.append(folder, "start", token=token, pid=os.getpid(), node=node(), code=source.code_hash())
        print(f"{LOG_HEADER} {utc_now()} on {node()}, process {os.getpid()}", flush=True)
        _compute(folder, worker, code)
        if (result := read_result(folder)) is not None:
            ledger.append(folder, "end", token=token)
            if result.status == "ok":
                shutil.rmtree(folder / layout.CHECKPOINTS, ignore_errors=True)


def node() -> str:
    """Returns the name of this machine, by which Slurm calls it where Slurm started the process."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _compute(folder: Path, worker: str, code: str) -> None:
    try:
        if code:
            snapshot.check(code)
        resolve(worker)(folder)
    except (RecordError, LostContact, UncompletedJobError):
        raise
    except Exception as error:
        if is_disk_full(error):
            raise
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        write_result(folder, Result(run_id=folder.name, status="error", reason=reason))
