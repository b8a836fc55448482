"""Counts of whole models: a forward pass over one view, a training step, and the closed form beside them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dualformer.adapter import AdaptedConfig
from dualformer.macs.counter import ROOT, LinearAsOneProduct, OperatorCounter, on_twins, silent
from dualformer.meta import no_memory
from dualformer.model_config import ModelConfig
from dualformer.model_contract import config_of, head_name, need, part, unwrapped
from dualformer.registry import model_config

MATRIX_WORK = frozenset({"conv", "linear", "matmul"})


@dataclasses.dataclass(frozen=True)
class MacCount:
    """Multiply-accumulates of one forward pass over one view.

    Attributes:
        total: the sum of `by_operator`.
        by_operator: "conv", "linear" (products with one shared matrix), "matmul" (batched products, such as
            attention's), "layer_norm", "batch_norm", "group_norm", "rms_norm"; operators that don't occur are absent.
        by_module: qualified name of every submodule that costs anything -> MACs, its children's included.
        head_included: whether the classification head is part of all of these.
    """

    total: int
    by_operator: Mapping[str, int]
    by_module: Mapping[str, int]
    head_included: bool

    @property
    def matrix_work(self) -> int:
        """The total without norms: what closed formulas and counters without fvcore's rule give."""
        return _matrix_work(self.by_operator)


@dataclasses.dataclass(frozen=True)
class TrainingMacs:
    """Multiply-accumulates of the matrix work of one training step on one clip, head included.

    Attributes:
        forward: the forward pass.
        backward: gradients of all weights and activations.
        recomputation: activations computed a second time; 0 without gradient checkpointing.
    """

    forward: int
    backward: int
    recomputation: int

    @property
    def total(self) -> int:
        return self.forward + self.backward + self.recomputation


@torch.inference_mode(False)  # which would hide what operators are made of
def count_macs(model_or_name: nn.Module | str, *, include_head: bool | None = None, **input: Any) -> MacCount:
    """Counts the multiply-accumulates of one view in eval mode, without arithmetic.

    A model is left exactly as it was: its weights aren't copied, its hooks don't run, its statistics, modes and
    compiled code aren't touched. A model given by name allocates no weights.

    Args:
        model_or_name: a model with a `config`, a name of `list_models()`, or an import path.
        include_head: whether to count the model's `head`; None follows the model's publication (the class attribute
            `published_macs_include_head`).
        **input: changes to the published config as in `create_model`, such as `num_frames` and `crop_size`; a model
            given with changes is counted as its config says, rebuilt with them.

    Raises:
        ConfigError: unknown model or field, wrong type, illegal value.
        UncountedOperatorError: an operator's cost isn't known.
        TypeError: a model without a config.
        LacksPartError: the head is to be left out of a model that has none.
    """
    model = _network(model_or_name, input)
    if include_head is None:
        published = part(model, "published_macs_include_head")
        include_head = True if published is None else published
    head = None if include_head else need(model, "head", "leaving the head out of the count") and head_name(model)
    with silent(model), torch.no_grad():
        by_module = on_twins(model, _forward)
    return _summarise(by_module, head)


def closed_form(config: ModelConfig, *, include_head: bool = False) -> int:
    """Matrix work of a model by arithmetic alone: equals `count_macs(...).matrix_work` at a fraction of its time.

    For plans over thousands of configurations, and as a check of the counter that shares nothing with it.

    Args:
        config: of any model, as `dualformer.registry.model_config` returns it.
        include_head: whether to count the head.

    Raises:
        ConfigError: a model without a closed form; `count_macs` counts it.
    """
    return config.matrix_work(include_head=include_head)


@torch.inference_mode(False)
def count_training_macs(model_or_name: nn.Module | str, **input: Any) -> TrainingMacs:
    """Counts the matrix work of one training step on one clip, every weight trained.

    Args:
        model_or_name: as in `count_macs`.
        **input: as in `count_macs`; `gradient_checkpointing` decides about recomputation.

    Raises:
        ConfigError, TypeError, UncountedOperatorError: as `count_macs`.
    """
    model = _network(model_or_name, input)
    forward, rest = _training_step(model)
    if not part(model, "gradient_checkpointing"):
        return TrainingMacs(forward, rest, 0)
    _, backward = _training_step(_skeleton(model, {"gradient_checkpointing": False}))
    return TrainingMacs(forward, backward, rest - backward)


def _training_step(model: nn.Module) -> tuple[int, int]:
    """Matrix work of the forward pass and of all that the backward pass does."""
    with silent(model, training=True), torch.enable_grad():
        return on_twins(model, _forward_and_backward)


def _forward(run: Callable[[], Tensor], counter: OperatorCounter) -> Mapping[str, Counter[str]]:
    with LinearAsOneProduct():  # not in training: what is recomputed in the backward pass doesn't see it
        run()
    return counter.by_module


def _forward_and_backward(run: Callable[[], Tensor], counter: OperatorCounter) -> tuple[int, int]:
    logits = run()
    forward = _matrix_work(counter.by_module["Global"])
    logits.sum().backward()
    return forward, _matrix_work(counter.by_module["Global"]) - forward


def _matrix_work(by_operator: Mapping[str, int]) -> int:
    return sum(count for name, count in by_operator.items() if name in MATRIX_WORK)


def _network(model_or_name: nn.Module | str, changes: Mapping[str, Any]) -> nn.Module:
    """The network to count: the model itself where there is one and nothing is to be changed."""
    if changes or isinstance(model_or_name, str):
        return _skeleton(model_or_name, changes)
    model = unwrapped(model_or_name)
    config_of(model)
    return model


def _skeleton(model_or_name: nn.Module | str, changes: Mapping[str, Any]) -> nn.Module:
    """The network without weights, where it can be built without."""
    if isinstance(model_or_name, str):
        config = model_config(model_or_name, **changes)
    else:
        config = config_of(unwrapped(model_or_name))
        if changes:
            config = model_config(**{**_rebuildable(config).to_dict(), **changes})
    with no_memory():
        return config.build()


def _rebuildable(config: ModelConfig) -> ModelConfig:
    """Returns the config; raises `ConfigError` for one that can't build its network again."""
    if isinstance(config, AdaptedConfig):
        config.build()
    return config


def _summarise(by_module: Mapping[str, Counter[str]], left_out: str | None) -> MacCount:
    """Turns counts by the tracker's names into those of the model without one submodule."""
    by_operator = Counter(by_module.get(ROOT, {}))
    inside = f"{ROOT}."
    totals = {name.removeprefix(inside): macs.total() for name, macs in by_module.items() if name.startswith(inside)}
    if left_out is not None:
        by_operator -= by_module.get(inside + left_out, Counter())
        head, outer = totals.get(left_out, 0), _above(left_out)
        totals = {
            name: macs - head * (name in outer)
            for name, macs in totals.items()
            if not f"{name}.".startswith(f"{left_out}.")
        }
    totals = {"": by_operator.total(), **totals}
    return MacCount(by_operator.total(), dict(sorted(by_operator.items())), totals, left_out is None)


def _above(name: str) -> set[str]:
    """Qualified names of the modules that hold a module."""
    parts = name.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts))}
