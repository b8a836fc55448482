"""One run from config to result: every field there, failures as rows, the same bits twice."""

import hashlib
import json
import re
import sys

import pytest
import torch

from dualformer import count_macs
from dualformer.data.cache import CacheError
from dualformer.data.handover import HandoverError
from dualformer.macs import count_training_macs
from dualformer.results.files import RecordError
from dualformer.results.result import read_result
from dualformer.weights import WeightsError
from sweeps import run as worker
from sweeps.failure import told_failure
from sweeps.measuring import timing
from sweeps.run import execute
from tests.helpers.planted import FREE
from tests.helpers.small_run import prepare_run, small_config, write_bright_and_dark


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_bright_and_dark(tmp_path_factory.mktemp("data"))


def run(config, folder):
    run_dir = prepare_run(folder, config)
    execute(run_dir)
    return run_dir, read_result(run_dir)


def test_every_pass_of_a_run_has_the_threads_of_its_config(root, tmp_path):
    seen = {True: set(), False: set()}  # in training mode and not

    def note(module, inputs, output):
        seen[module.training].add(torch.get_num_threads())

    config = small_config(root, threads=2, measure={"latency": True, "samples": 2, "settled": 1.0})
    before, hook = torch.get_num_threads(), torch.nn.modules.module.register_module_forward_hook(note)
    try:
        _, result = run(config, tmp_path)
    finally:
        hook.remove()
        torch.set_num_threads(before)
    assert result.status == "ok" and result.roofline_ms > 0
    assert seen == {True: {2}, False: {2}}


def test_a_run_leaves_a_whole_row_with_its_circumstances(root, tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "clock_doubt", lambda *args: "")  # a busy machine rightly makes the times doubtful
    changes = {"measure": {"latency": True, "samples": 3}, "evaluate": {"num_clips": 2, "num_crops": 3}}
    config = small_config(root, train={"steps": 40, "learning_rate": 3e-3}, **changes)
    run_dir, result = run(config, tmp_path)
    assert (result.status, result.reason) == ("ok", "")
    model = worker.build_model(config, num_classes=2)
    assert result.params_m == sum(p.numel() for p in model.parameters()) / 1e6
    assert result.gmacs_per_view == count_macs(model).total / 1e9
    assert result.num_views == 6
    assert result.gmacs_total == pytest.approx(6 * result.gmacs_per_view)
    assert result.gflops_total == 2 * result.gmacs_total
    assert 0 < result.latency_ms_p20 <= result.latency_ms_p50 <= result.latency_ms_p80
    assert result.throughput_clips_per_s > 0
    assert result.peak_mem_gib > 0
    assert result.flags == json.loads((run_dir / "measurement.json").read_text())["flags"]
    assert result.gate == json.loads((run_dir / "measurement.json").read_text())["gate"]["compared_with"] == "twins"
    assert result.compile_s is None, "nothing was compiled"
    assert result.roofline_ms > 0
    assert result.train_gmacs_per_clip == count_training_macs(model).total / 1e9 > 2 * result.gmacs_per_view
    assert result.num_videos == 8
    assert result.num_failed_videos == 0
    assert result.in_order_share == 1, "decord fails on frames as small as these"
    assert result.chance_top1 == 0.5
    assert result.top1 > 0.9
    provenance = json.loads((run_dir / "provenance.json").read_text())
    assert provenance["started_utc"] <= provenance["finished_utc"]
    assert provenance["threads"] == 1
    assert [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()][-1] == 40


def test_a_run_that_starts_from_weights_records_which(root, tmp_path):
    first, _ = run(small_config(root, train={"save_every": 6}), tmp_path)
    weights = first / "weights.pt"
    config = small_config(root, model={"weights": str(weights)}, train={"steps": 1, "learning_rate": 0.0})
    second, result = run(config, tmp_path)
    assert result.status == "ok" and 0 < result.data_wait_share < 1
    assert (first / "predictions.csv").read_bytes() == (second / "predictions.csv").read_bytes()
    recorded = [json.loads((folder / "provenance.json").read_text())["weights_sha256"] for folder in (first, second)]
    assert recorded == [None, hashlib.sha256(weights.read_bytes()).hexdigest()]


def test_a_run_starts_from_the_set_of_weights_that_it_names(root, tmp_path):
    config = small_config(root)
    trained = worker.build_model(config, 4).state_dict()
    averaged = {name: value + 1 for name, value in trained.items()}
    torch.save({"model": trained, "model_ema": averaged}, tmp_path / "two.pth")
    for name, expected in ((None, trained), ("model_ema", averaged)):
        chosen = config.changed(model={"weights": str(tmp_path / "two.pth"), "weight_set": name})
        loaded = worker.build_model(chosen, 4).state_dict()
        assert all(value.equal(expected[key]) for key, value in loaded.items())
    with pytest.raises(WeightsError, match="no set of weights 'ema'; did you mean"):
        worker.build_model(chosen.changed(model={"weight_set": "ema"}), 4)


@pytest.mark.parametrize(
    "error", [CacheError("no folder for the cache"), HandoverError("no room"), RecordError("full")]
)
def test_a_reason_that_says_all_stands_alone(error, capfd):
    assert told_failure(error) == {"status": "error", "reason": str(error)}
    assert capfd.readouterr().err == ""


def test_a_loss_that_is_not_finite_is_a_row_that_names_the_videos(root, tmp_path):
    folder, result = run(small_config(root, train={"learning_rate": 1e9, "warmup_steps": 0}), tmp_path)
    assert result.status == "error"
    assert re.match(r"loss is (nan|inf) at step \d on train/\w+/\d\.mp4, ", result.reason)
    assert len(json.loads((folder / "failed_batch.json").read_text())["files"]) == 4


def test_the_same_config_gives_the_same_predictions_and_loss(root, tmp_path):
    config = small_config(root)
    one_dir, one = run(config, tmp_path / "one")
    two_dir, two = run(config, tmp_path / "two")
    assert one.final_train_loss == two.final_train_loss
    assert (one_dir / "predictions.csv").read_bytes() == (two_dir / "predictions.csv").read_bytes()


def test_a_run_without_training_has_costs_and_no_accuracy(root, tmp_path):
    _, result = run(small_config(root, train={"steps": 0}), tmp_path)
    assert result.status == "ok"
    assert result.gmacs_per_view > 0
    assert result.top1 is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": {"root": "nowhere"}}, "nowhere: no such data set"),
        ({"device": "cuda"}, "device is 'cuda' and this machine has none"),
        ({"model": {"num_frames": 50}}, "8 of 8 videos can't be used"),
        ({"model": {"attention": f"L{FREE}"}}, f"unknown letter '{FREE}'"),
        ({"model": {"weights": "gone.pt"}}, "^model.weights: no weights file gone.pt"),
    ],
    ids=["no_data", "no_cuda", "short_videos", "bad_pattern", "no_weights"],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="one case asks for a device that must be missing")
def test_a_failure_is_a_row_with_its_reason(root, tmp_path, changes, reason):
    _, result = run(small_config(root, **changes), tmp_path)
    assert result.status == "error"
    assert re.search(reason, result.reason)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (torch.OutOfMemoryError("Tried to allocate 9 GiB\nand more"), "oom", "Tried to allocate 9 GiB"),
        (ZeroDivisionError("by zero"), "error", "ZeroDivisionError: by zero (test_run.py:"),
    ],
)
def test_what_is_raised_inside_becomes_status_and_reason(root, tmp_path, monkeypatch, error, status, reason):
    def fail(*args):
        raise error

    monkeypatch.setattr(worker, "train", fail)
    _, result = run(small_config(root), tmp_path)
    assert result.status == status
    assert result.reason.startswith(reason)
    assert result.gmacs_per_view > 0, "what was found before the failure is kept"
    assert result.top1 is None


@pytest.mark.parametrize(
    "breaks",
    [
        lambda patch: patch.setitem(sys.modules, "torchmetrics.functional.classification", None),
        lambda patch: patch.setattr(
            "torchmetrics.functional.classification.multiclass_calibration_error",
            lambda *args: (_ for _ in ()).throw(RuntimeError("operator torchvision::nms does not exist")),
        ),
        lambda patch: patch.setattr(
            "torchmetrics.functional.classification.multiclass_stat_scores", lambda *args, **kwargs: torch.zeros(5)
        ),
    ],
    ids=["gone", "broken", "other"],
)
def test_what_evaluation_needs_is_tried_before_anything_is_trained(root, tmp_path, monkeypatch, breaks):
    breaks(monkeypatch)
    monkeypatch.setattr(worker, "train", lambda *args: pytest.fail("was trained"))
    monkeypatch.setattr(worker, "measure", lambda *args, **kwargs: pytest.fail("was timed"))
    _, result = run(small_config(root), tmp_path)
    assert result.status == "error"
    assert re.match("nothing here can score predictions: |predictions without a mistake are scored", result.reason)


def test_a_result_that_can_not_be_written_leaves_the_run_unfinished(root, tmp_path, monkeypatch):
    def full_disk(*args):
        raise RecordError(28, "cannot write result.json (No space left on device)")

    monkeypatch.setattr(worker, "write_result", full_disk)
    run_dir = prepare_run(tmp_path, small_config(root, train={"steps": 0}))
    with pytest.raises(RecordError, match="No space left"):
        execute(run_dir)
    assert read_result(run_dir) is None
