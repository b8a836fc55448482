"""A grid of three runs and ways to launch it: in this process, and as from a shell."""

import json
from pathlib import Path

from dualformer.results.files import read_lines
from sweeps.launching import launcher as launch
from sweeps.launching.grid import load_grid

ROOT = Path(__file__).parents[2]
GRID = "base: {model: {name: dualformer_tiny, num_frames: 4, crop_size: 16}}\naxes: {seed: [0, 1, 2]}\n"


def run(worker: str, *flags: str, executor: str = "local") -> int:
    arguments = ["--grid", "three.yaml", "--profile", "two.yaml", "--executor", executor, *flags]
    return launch.main(arguments, worker=f"tests.helpers.fake_workers:{worker}")


def run_dirs() -> list[Path]:
    return [Path("runs", run.run_id) for run in load_grid("three.yaml").runs]


def computed() -> list[int]:
    """How often each run of the grid was computed."""
    return [len(read_lines(run_dir / "computed.jsonl")) for run_dir in run_dirs()]


def listed() -> dict[str, dict]:
    return {
        listed["run_id"]: listed["differs"] for listed in json.loads(Path("runs/three.grid.json").read_text())["runs"]
    }
