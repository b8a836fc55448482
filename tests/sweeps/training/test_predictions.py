"""Names of videos and classes in the tables that a run leaves."""

import csv
from pathlib import Path

import torch

from sweeps.training.predictions import Predictions, read_predictions, write_predictions
from tests.helpers import hostile


def test_names_of_videos_and_classes_are_no_formulas_and_are_read_back(tmp_path: Path):
    names = tuple(name for name in hostile.NAMES if "\r" not in name)
    probabilities = torch.eye(len(names)).double()
    written = Predictions(names, tuple(names), torch.arange(len(names)), probabilities, unread=("=1+1.mp4",))
    write_predictions(tmp_path / "predictions.csv", written)
    with open(tmp_path / "predictions.csv", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@\t\r\n")]
    read = read_predictions(tmp_path / "predictions.csv")
    assert (tuple(read.classes), tuple(read.files), read.unread) == (names, names, ("=1+1.mp4",))
