"""The largest batch whose forward pass fits into a GPU's memory; a measure of its own, no other run uses it.

python -m sweeps.measuring.max_batch dualformer_tiny --precision bfloat16
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import nn

from dualformer.config import ConfigError
from dualformer.modes import evaluating
from dualformer.registry import create_model
from sweeps.measuring.forward import forward_pass
from sweeps.measuring.memory import is_out_of_memory
from sweeps.measuring.settings import settings
from sweeps.run_config import MeasureConfig


def max_batch(
    model: nn.Module, config: MeasureConfig, *, device: str | torch.device = "cuda", limit: int = 4096
) -> int:
    """Returns the largest batch size up to `limit` that runs uncompiled; 0 where not even one clip does.

    Args:
        model: a model with a `config`; it is moved to `device`.
        config: precision and attention kernel; its batch size doesn't matter.
        device: where memory running out is an error and not the end of the process, so no CPU.
        limit: largest batch that is tried.
    """
    if torch.device(device).type == "cpu":
        raise ValueError(
            "a CPU swaps or kills instead of saying that memory is out, so its largest batch isn't searched"
        )
    with evaluating(model.to(device)), settings(config, threads=1):
        return largest(lambda size: fits(model, config, size, device), limit)


def fits(model: nn.Module, config: MeasureConfig, batch_size: int, device: str | torch.device) -> bool:
    """Whether one forward pass at this batch size gets the memory it wants."""
    torch.cuda.empty_cache()
    try:
        clip = torch.zeros(batch_size, *model.config.clip_shape, device=device)
        forward_pass(model, clip, config)()
        torch.cuda.synchronize()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def largest(fits: Callable[[int], bool], limit: int) -> int:
    """The largest n up to `limit` that fits, if all smaller ones do; 0 if none: doubling, then halving the gap."""
    good, bad = 0, 1
    while bad <= limit and fits(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, limit + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a name of dualformer.list_models()")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--limit", type=int, default=4096)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this machine has no CUDA device")
    try:
        config = MeasureConfig().changed(precision=given.precision)
        print(max_batch(create_model(given.model), config, limit=given.limit))
    except ConfigError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
