"""Jobs import the copy of the code, and see of their launcher's environment what is listed and nothing else."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dualformer.results.files import read_lines
from slurm import environment
from sweeps.source import PACKAGES, ROOT

GRID = (
    "base: {model: {name: dualformer_tiny, num_frames: 4, crop_size: 16}, measure: {latency: false}}\n"
    "axes: {seed: [0, 1, 2]}\n"
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of the project, in whose root the README's commands are given."""
    root = tmp_path / "checkout"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "three.yaml").write_text(GRID)
    (root / "two.yaml").write_text("max_parallel: 1\nmax_attempts: 1\n")
    return root


def edit_after_the_first_start(root: Path, process: subprocess.Popen) -> None:
    """Adds a comment to a file of the project as soon as one of several runs has started."""
    deadline = time.monotonic() + 120
    while not any(event["event"] == "start" for path in root.glob("runs/*/ledger.jsonl") for event in read_lines(path)):
        assert process.poll() is None and time.monotonic() < deadline, "no run was started"
        time.sleep(0.05)
    (root / "dualformer" / "config.py").open("a").write("# edited while runs wait\n")


def launch_and_edit(root: Path, *flags: str) -> tuple[int, str]:
    """The README's command from the root of a checkout, which is edited meanwhile; exit status and output."""
    command = [sys.executable, "sweeps/launch.py", "--grid", "three.yaml", "--profile", "two.yaml", *flags]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(
        command, cwd=root, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        edit_after_the_first_start(root, process)
        output, _ = process.communicate(timeout=300)
    return process.returncode, output


def test_runs_compute_what_was_launched_while_the_checkout_is_edited(checkout: Path):
    status, output = launch_and_edit(checkout, "--executor", "local")
    assert status == 0, output
    found = [json.loads(path.read_text()) for path in checkout.glob("runs/*/provenance.json")]
    assert len(found) == 3
    assert {each["code_files"]["dualformer/config.py"] for each in found} == {
        found[0]["code_files"]["dualformer/config.py"]
    }


def test_a_job_imports_neither_its_working_directory_nor_a_relative_place(tmp_path: Path):
    code = tmp_path / "copy"
    for root, said in ((code, "copy"), (tmp_path, "working directory")):
        (root / "mine").mkdir(parents=True)
        (root / "mine" / "__init__.py").write_text(f"print('{said}')\n")
    seen = environment.with_code({**os.environ, "PYTHONPATH": f":.:{ROOT}"}, code, threads=1)
    done = subprocess.run(
        [sys.executable, "-m", "mine.missing"], cwd=tmp_path, env=seen, capture_output=True, text=True
    )
    assert done.stdout == "copy\n"
    assert seen["PYTHONPATH"].split(os.pathsep) == [str(code), str(ROOT)]


@pytest.mark.parametrize(
    "name",
    [
        *("SLURM_MEM_PER_CPU", "SLURM_JOB_ID", "SLURM_NTASKS", "SBATCH_PARTITION", "SUBMITIT_EXECUTOR", "PMI_RANK"),
        *("PMIX_RANK", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"),
        *("OMPI_COMM_WORLD_RANK", "SOMETHING_ELSE", "PYTHONSTARTUP", "SLURMD_NODENAME"),
    ],
)
def test_what_is_about_the_launcher_stays_with_it(name: str):
    assert environment.for_jobs({name: "1", "PATH": "/bin"}) == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "name",
    [
        *("SLURM_CONF", "PATH", "HOME", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "DUALFORMER_CACHE", "WANDB_MODE"),
        *("https_proxy", "NO_PROXY", "LC_ALL", "LANG", "TMPDIR", "XDG_CACHE_HOME", "PYTHONPATH", "NCCL_DEBUG"),
    ],
)
def test_what_a_job_needs_passes(name: str):
    assert environment.for_jobs({name: "1"}) == {name: "1"}


def test_a_profile_names_what_else_passes_and_never_what_must_not():
    passed = environment.for_jobs({"SITE_A": "1", "OTHER": "2", "SLURM_JOB_ID": "3"}, ["SITE_*", "SLURM_*", "*"])
    assert passed == {"SITE_A": "1", "OTHER": "2"}


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    before = dict(os.environ)
    with pytest.raises(ZeroDivisionError), environment.replaced({"PATH": "/bin", "NEW": "1"}):
        assert dict(os.environ) == {"PATH": "/bin", "NEW": "1"}
        raise ZeroDivisionError
    assert dict(os.environ) == before
