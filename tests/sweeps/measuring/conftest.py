"""A small network to measure."""

import pytest

from dualformer.registry import create_model
from tests.helpers.small_models import TWO_STAGES


@pytest.fixture
def model():
    return create_model("dualformer_tiny", **TWO_STAGES)
