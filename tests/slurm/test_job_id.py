import pytest

from slurm.job_id import JobId
from slurm.places import KINDS, executor_class
from slurm.times import minutes


@pytest.mark.parametrize(
    ("text", "job_id"),
    [
        ("slurm:12", JobId("slurm", "12")),
        ("slurm:12_3", JobId("slurm", "12_3")),
        ("local:4711:1700000000.25", JobId("local", "4711", "1700000000.25")),
        ("local:4711:1700000000.25@0,1", JobId("local", "4711", "1700000000.25", ("0", "1"))),
        ("local:4711:1700000000.25@GPU-a", JobId("local", "4711", "1700000000.25", ("GPU-a",))),
        ("local:4711:1700000000.25@,", JobId("local", "4711", "1700000000.25", ("", ""))),
        ("debug:8a1f", JobId("debug", "8a1f")),
    ],
)
def test_the_text_of_a_job_id_is_read_back(text: str, job_id: JobId):
    assert JobId.parse(text) == job_id and str(job_id) == text


@pytest.mark.parametrize("text", ["", "slurm", "slurm:", ":12", "local:1:2:3", "local::1"])
def test_what_is_no_job_id_is_refused(text: str):
    with pytest.raises(ValueError, match="no job id"):
        JobId.parse(text)


def test_a_job_of_any_kind_finds_its_executor():
    assert {executor_class(kind).kind for kind in KINDS if kind != "auto"} == set(KINDS) - {"auto"}
    gone = executor_class("of-another-version")
    assert gone.job_ended(JobId("of-another-version", "1")) is not None


@pytest.mark.parametrize(
    ("text", "found"),
    [("90", 90), ("90:00", 90), ("90:30", 91), ("2:00:00", 120), ("1-12", 2160), ("1-00:00:00", 1440), ("1-2:3", 1563)],
)
def test_times_are_read_as_slurm_writes_them(text: str, found: int):
    assert minutes(text) == found


@pytest.mark.parametrize("text", ["", "2h", "1:2:3:4", "-5", "1-", "1.5", "1d"])
def test_what_is_no_time_is_refused(text: str):
    with pytest.raises(ValueError, match="no time"):
        minutes(text)
