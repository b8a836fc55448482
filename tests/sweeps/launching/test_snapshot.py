import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dualformer import registry
from dualformer.results.layout import SNAPSHOTS
from sweeps.launching.snapshot import SnapshotError, check, name_of, take
from sweeps.source import PACKAGES, ROOT, code_hash, source_state


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of the project's packages with one commit."""
    root = tmp_path / "checkout"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    git(root.parent, "init", "-q", str(root))
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "all")
    return root


def test_the_hash_follows_the_code_and_nothing_else(checkout: Path):
    before = code_hash(checkout)
    (checkout / "sweeps" / "notes.txt").write_text("not code")
    (checkout / "sweeps" / "__pycache__").mkdir()
    (checkout / "sweeps" / "__pycache__" / "x.py").write_text("1")
    assert code_hash(checkout) == before
    (checkout / "sweeps" / "worker.py").open("a").write("\n")
    assert code_hash(checkout) != before


def test_a_snapshot_holds_the_code_as_it_was(checkout: Path, tmp_path: Path):
    (checkout / "slurm" / "task.py").open("a").write("# edited\n")
    launched = code_hash(checkout)
    snapshot = take(tmp_path / "runs", root=checkout)
    (checkout / "slurm" / "task.py").open("a").write("# edited again\n")
    assert snapshot == tmp_path / "runs" / SNAPSHOTS / launched
    assert code_hash(snapshot) == launched != code_hash(checkout)
    assert source_state(snapshot) == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": True}
    assert "+# edited\n" in (snapshot / "uncommitted.patch").read_text()
    assert take(tmp_path / "runs", root=snapshot) == snapshot
    assert [path.name for path in snapshot.parent.iterdir()] == [launched]


def test_a_process_imports_the_snapshot_and_notices_when_it_was_tampered_with(checkout: Path, tmp_path: Path):
    snapshot = take(tmp_path / "runs", root=checkout)
    program = f"from sweeps.launching.snapshot import check; check({snapshot.name!r})"
    command = [sys.executable, "-c", program]
    environment = {"PYTHONPATH": str(snapshot), "PATH": ""}
    assert subprocess.run(command, env=environment, cwd=tmp_path).returncode == 0
    (snapshot / "sweeps" / "worker.py").open("a").write("\n")
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and f"launched was code {snapshot.name}" in done.stderr


def test_the_running_code_passes_its_own_check():
    check(code_hash())
    with pytest.raises(SnapshotError):
        check("0" * 12)


def test_source_state_knows_commit_and_changes(tmp_path: Path):
    assert source_state(tmp_path) == {"commit": None, "dirty": None}
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("1\n")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-q", "-m", "a")
    assert source_state(tmp_path) == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a.py").write_text("2\n")
    assert source_state(tmp_path)["dirty"] is True


def test_a_network_of_ones_own_is_copied_beside_the_code(checkout: Path, tmp_path: Path, monkeypatch):
    package = tmp_path / "place" / "mine"
    (package / "parts").mkdir(parents=True)
    for name in ("__init__.py", "net.py", "parts/__init__.py", "parts/block.py"):
        (package / name).write_text("")
    single = tmp_path / "place" / "single.py"
    single.write_text("")
    files = {"mine.net:build": sorted(package.rglob("*.py")), "single:build": [single]}
    monkeypatch.setattr(registry, "source_files", lambda name: files[name], raising=False)
    plain = take(tmp_path / "runs", root=checkout)
    snapshot = take(tmp_path / "runs", [*files, *files, "dualformer_tiny"], root=checkout)
    assert snapshot != plain and name_of(plain) == plain.name
    for name in ("mine/net.py", "mine/parts/block.py", "single.py", "sweeps/run.py"):
        assert (snapshot / name).is_file()
    assert take(tmp_path / "runs", files, root=checkout) == snapshot
    assert name_of(snapshot) == snapshot.name
    (package / "parts" / "block.py").write_text("# edited\n")
    assert take(tmp_path / "runs", files, root=checkout) != snapshot
    (snapshot / "mine" / "net.py").write_text("# tampered with\n")
    assert name_of(snapshot) != snapshot.name
