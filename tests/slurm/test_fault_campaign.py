"""The short fault campaign: every kind of fault on a few runs, on a private cluster. See `fault_campaign.py`."""

import os
from pathlib import Path

import pytest

from tests.slurm.fault_campaign import run_campaign
from tests.slurm.test_slurm import why_not

SEED = int(os.environ.get("CAMPAIGN_SEED", "1"))
"""Of the order of faults; any must do."""


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.timeout(3600)  # the campaign ends by itself where nothing comes forward
def test_every_run_survives_every_kind_of_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reason = why_not()
    if reason and os.environ.get("DUALFORMER_REQUIRE_SLURM") == "1":
        pytest.fail(f"{reason}, and DUALFORMER_REQUIRE_SLURM=1")
    if reason:
        pytest.skip(reason)
    monkeypatch.setenv("SLURM_CONF", "")
    limits = {"num_runs": 5, "num_faults": 0, "minutes": 4.0}
    assert run_campaign(tmp_path, seed=SEED, port=None, **limits), (tmp_path / "report.json").read_text()
