"""What tests run in several processes: `torchrun --nproc-per-node N -m tests.together JOB ARGUMENTS`."""

import contextlib
import faulthandler
import itertools
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sweeps import run as worker
from sweeps.launching import launcher
from sweeps.run_config import RunConfig
from sweeps.run_context import RunContext
from sweeps.training import processes
from sweeps.training.errors import EvaluationError
from sweeps.training.evaluation import predict
from sweeps.training.learner import Learner
from sweeps.training.loop import train
from sweeps.training.processes import Team
from sweeps.training.scoring import score

CPU = torch.device("cpu")


def predictions(config: str, out: str) -> None:
    """Saves what a network predicts, which only the first process knows the weights of."""
    with processes.join() as team:
        for name, fields in json.loads(Path(config).read_text()).items():
            settings = RunConfig.from_dict(fields)
            _, held_out = worker.build_datasets(settings, worker.chosen_model(settings))
            model = worker.build_model(settings.changed(seed=team.rank), num_classes=len(held_out.classes))
            sizes = []
            model.register_forward_hook(lambda module, args, logits, sizes=sizes: sizes.append(len(logits)))
            found, _ = predict(model, held_out, RunContext(settings, CPU, Path(out).parent, team))
            clips = team.sum(sum(sizes))
            if team.leads:
                saved = {"probabilities": found.probabilities, "files": found.files, "unread": found.unread}
                torch.save({**saved, "scores": score(found), "clips": clips}, f"{out}.{name}.pt")


def batch_norm(out: str) -> None:
    """Saves what a batch norm and the layer below it come to, trained on uneven shares of a batch of seven."""
    with processes.join() as team:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv3d(2, 3, 1), nn.BatchNorm3d(3), nn.Conv3d(3, 1, 1))
        clips = torch.randn(7, 2, 2, 3, 3) * 3 + 5
        mine = clips[team.rank :: team.size]
        network = team.parallel(model)
        for _ in range(2):
            network(mine).square().mean(dim=(1, 2, 3, 4)).sum().mul(team.size / 7).backward()
        gradients = {f"{name}.grad": value.grad for name, value in model.named_parameters()}
        torch.save({**model.state_dict(), **gradients}, f"{out}.{team.rank}.pt")


def resumed(config: str, out: str) -> None:
    """Saves the weights of a training that nothing stops, and of one that all processes leave before a step."""
    settings = RunConfig.from_dict(json.loads(Path(config).read_text()))
    with processes.join() as team:
        for name, stops in (("unbroken", []), ("stopped", [5, None])):
            run_dir = Path(f"{out}.{name}")
            run_dir.mkdir(exist_ok=True)
            team.sum(0)  # the folder is there for all
            for stop in stops or [None]:
                train_set, held_out = worker.build_datasets(settings, worker.chosen_model(settings))
                model = worker.build_model(settings, num_classes=len(train_set.classes))
                with contextlib.suppress(KeyboardInterrupt), _stopped_before(stop):
                    train(model, train_set, RunContext(settings, CPU, run_dir, team), held_out)
            torch.save(model.state_dict(), run_dir / f"process.{team.rank}.pt")


@contextlib.contextmanager
def _stopped_before(step: int | None):
    """Raises in place of the update of a step."""
    update, steps = Learner.update, itertools.count()

    def dying(*arguments):
        if next(steps) == step:
            raise KeyboardInterrupt
        update(*arguments)

    Learner.update = dying
    try:
        yield
    finally:
        Learner.update = update


def launches(*arguments: str) -> int:
    """Launches a grid; what a run does is up to the environment variable WORKER, a function of this module."""
    return launcher.main(list(arguments), worker=f"tests.helpers.together:{os.environ.get('WORKER', 'execute')}")


def launches_in_turn(arguments: str, out: str) -> None:
    """Launches several times and saves the exit statuses of each process."""
    statuses = []
    with processes.join() as team:
        for listed in json.loads(arguments):
            print("launch", flush=True)
            statuses.append(launches(*listed))
        Path(f"{out}.{team.rank}").write_text(json.dumps(statuses))


def execute(run_dir: Path) -> None:
    """Computes a run and notes in its folder who took part."""
    (run_dir / f"process.{processes.current().rank}").touch()
    worker.execute(run_dir)


def one_raises(run_dir: Path) -> None:
    """The process of number FAILING has an error of its own at the third step of the first run."""
    _break_one(run_dir, int(os.environ["FAILING"]), lambda: _raise(ZeroDivisionError("by zero")))


def one_is_killed(run_dir: Path) -> None:
    """The second process is killed at the third step of the first run."""
    _break_one(run_dir, 1, lambda: os.kill(os.getpid(), signal.SIGKILL))


def all_raise(run_dir: Path) -> None:
    """Every process meets the same error in the run of seed 0."""
    if json.loads((run_dir / "config.json").read_text())["seed"] == 0:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker, "evaluate", lambda *args: _raise(EvaluationError("nothing to score")))
            worker.execute(run_dir)
    else:
        worker.execute(run_dir)


def _break_one(run_dir: Path, rank: int, what) -> None:
    """Does `what` in one process in the middle of the run's training."""
    share = Team.share

    def breaking(team, batches):
        for number, batch in enumerate(share(team, batches)):
            if team.rank == rank and number == 2:
                what()
            yield batch

    Team.share = lambda team, batches: Steps(breaking(team, batches))
    worker.execute(run_dir)


class Steps:
    """Batches, as a sampler."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return self.batches


def _raise(error: Exception) -> None:
    raise error


JOBS = {
    "predictions": predictions,
    "batch_norm": batch_norm,
    "resumed": resumed,
    "launch": launches,
    "launch_in_turn": launches_in_turn,
}

if __name__ == "__main__":
    faulthandler.dump_traceback_later(300, exit=True)  # should they wait for each other, where
    sys.exit(JOBS[sys.argv[1]](*sys.argv[2:]))
