"""The benchmark command works, and what it saves says enough to be compared with another file."""

import json
import os
import subprocess
import sys
from pathlib import Path

from dualformer.attention import letters

ROOT = Path(__file__).parents[3]


def test_saved_benchmark_says_what_it_is(tmp_path):
    file = tmp_path / "saved.json"
    command = [sys.executable, "-m", "pytest", "tests/benchmarks", "--benchmark-only", f"--benchmark-json={file}"]
    # Where tests run side by side, pytest tells so in the environment, and pytest-benchmark then refuses to time.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**inherited, "BENCHMARK_DEVICE": "cpu", "BENCHMARK_DTYPE": "float32", "BENCHMARK_THREADS": "1"}
    letter = letters()[0]
    chosen = ["-k", f"{letter}-4x4x4-forward", "-p", "no:cacheprovider"]
    finished = subprocess.run([*command, *chosen], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    benchmarks = json.loads(file.read_text())["benchmarks"]
    assert {item["group"] for item in benchmarks} == {"4x4x4 tokens, forward", "4x4x4 tokens, forward+backward"}
    for item in benchmarks:
        info = item["extra_info"]
        assert (info["letter"], info["grid"], info["dtype"]) == (letter, [4, 4, 4], "float32")
        assert (info["device"], info["threads"]) == ("cpu", 1)
        assert isinstance(info["flags"], list) and info["machine"]["cpu_busy_s"] > 0
        assert info["device_name"] and info["torch"] and info["macs_per_clip"] > 0
