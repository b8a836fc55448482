"""What every attention promises, as checks that tests, `dualformer check` and benchmarks share.

A check takes a letter, builds that attention with the `examples` of its file, and returns in words what it saw; it
raises `CheckError` where the promise isn't kept. `check_letter` runs all of them and turns every error into a finding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dualformer.attention import find
from dualformer.attention.base import Attention, Place
from dualformer.errors import kind_and_line
from dualformer.layers import Size
from dualformer.macs import count_macs
from dualformer.model_config import ModelConfig
from dualformer.modes import evaluating
from dualformer.reference import naive, num_twins
from dualformer.tracing import shared_functions

GRIDS: Mapping[str, Size] = {
    "even": (4, 6, 6),
    "odd": (5, 7, 3),
    "prime": (3, 11, 5),
    "flat": (1, 9, 9),
    "small": (2, 2, 3),
    "single": (1, 1, 1),
}
"""Token grids (T, H, W) that every attention is tried on."""
DIM, NUM_HEADS = 12, 3
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest accepted error of a fast path against its twin, as `twin_errors` gives it."""
AUTOCAST_TOLERANCE = 0.03
"""Largest accepted error of bfloat16 autocast, relative to the largest value in float32."""


class CheckError(AssertionError):
    """An attention doesn't keep what every attention promises."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        name: the check, a key of `CHECKS`.
        ok: whether the promise is kept.
        detail: what was seen, in words and figures.
    """

    name: str
    ok: bool
    detail: str


def examples(letter: str) -> dict[str, dict[str, Any]]:
    """Settings to try an attention with, by name: those of its file, and the first of them without biases."""
    own = {name: dict(fields) for name, fields in find(letter).examples.items()}
    first = next(iter(own.values()), {})
    return {**own, "no_qkv_bias": {**first, "qkv_bias": False}}


def build(letter: str, grid: Size, *, dim: int = DIM, num_heads: int = NUM_HEADS, **fields: Any) -> Attention:
    """Builds an attention with seeded weights, in eval mode; `fields` are those of its `Options` and of `Place`."""
    cls = find(letter)
    own = {field.name for field in dataclasses.fields(cls.Options)}
    options = cls.Options(**{name: value for name, value in fields.items() if name in own})
    rest = {name: value for name, value in fields.items() if name not in own}
    torch.manual_seed(0)
    return cls(Place(dim=dim, num_heads=num_heads, grid=grid, **rest), options).eval()


def tokens(attention: Attention, batch: int = 2) -> Tensor:
    """Normal noise of the shape that an attention maps, [B, T, H, W, C], in its precision; the same at every call."""
    shape = (batch, *attention.place.grid, attention.place.dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(attention.proj.weight)


def twin_errors(module: nn.Module, x: Tensor) -> dict[str, float]:
    """How far a module's fast path is from its twins, in eval mode and the precision of its weights.

    Args:
        module: an attention, block or model with twins in it.
        x: what it is called with.

    Returns:
        Error of the "output", and of the "gradient of input" and of every parameter: the largest difference over the
        largest value of the output, or of all gradients.
    """
    with evaluating(module):
        with naive(module):  # first, so that it has nothing of the fast path to go by
            slow = _output_and_gradients(module, x)
        fast = _output_and_gradients(module, x)
    scales = {"output": _largest([slow["output"]])}
    gradients = _largest(value for name, value in slow.items() if name != "output")
    return {name: ((fast[name] - slow[name]).abs().max() / scales.get(name, gradients)).item() for name in slow}


def _output_and_gradients(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output, and gradients of a random weighted sum of it; zeros for a parameter that it doesn't depend on."""
    x = x.detach().requires_grad_()
    named = {"gradient of input": x, **{f"gradient of {name}": p for name, p in module.named_parameters()}}
    with torch.enable_grad():
        output = module(x)
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(output)
        gradients = torch.autograd.grad((output * weights).sum(), list(named.values()), allow_unused=True)
    filled = [torch.zeros_like(of) if one is None else one for of, one in zip(named.values(), gradients)]
    return {"output": output.detach(), **dict(zip(named, filled))}


def _largest(values: Iterable[Tensor]) -> float:
    return max((value.abs().max().item() for value in values), default=0.0) or 1.0


def counted_macs(attention: Attention) -> int:
    """Matrix work of an attention for one sample as the operator counter sees it, without arithmetic.

    Raises:
        UncountedOperatorError: an operator's cost isn't known.
    """
    return count_macs(_AsModel(attention)).matrix_work


class _AsModel(nn.Module):
    """An attention as a model without other matrix work: the clip's values become the channels."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention
        frames, *crop = attention.place.grid
        self.config = ModelConfig(name="attention", num_frames=frames, crop_size=(crop[0], crop[1]))

    def forward(self, clip: Tensor) -> Tensor:
        channels = -(-self.attention.place.dim // 3)
        return self.attention(clip.movedim(1, -1).repeat(1, 1, 1, 1, channels)[..., : self.attention.place.dim])


def every_build(letter: str, grids: Iterable[str] = GRIDS) -> Iterator[tuple[str, Attention]]:
    """Every example of an attention on every grid, with a name for it."""
    for name, fields in examples(letter).items():
        for grid in grids:
            yield f"{name} on {'x'.join(map(str, GRIDS[grid]))}", build(letter, GRIDS[grid], **fields)


def check_options(letter: str) -> str:
    """Every option is tried by an example, so that no other check can miss one, and changes something there."""
    cls = find(letter)
    defaults = _defaults(cls)
    tried = {name: [fields[name] for fields in cls.examples.values() if name in fields] for name in defaults}
    missing = [name for name, default in defaults.items() if all(value == default for value in tried[name])]
    if missing:
        raise CheckError(f"no example gives {' or '.join(missing)} another value than the default")
    for example, fields in cls.examples.items():
        for name, default in defaults.items():
            if fields.get(name, default) != default and not _changes_anything(letter, fields, name):
                raise CheckError(f"{example}: {name} {fields[name]!r} gives what the default {default!r} gives")
    return f"options: {', '.join(defaults) or 'none'}; examples: {', '.join(cls.examples)}"


def _defaults(cls: type[Attention]) -> dict[str, Any]:
    """The default of each option."""
    return {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(cls.Options)
    }


@torch.no_grad()
def _changes_anything(letter: str, fields: Mapping[str, Any], option: str) -> bool:
    """Whether an option of an example, in place of its default, changes parameters, cost or output on any grid."""
    without = {name: value for name, value in fields.items() if name != option}
    for grid in GRIDS.values():
        one, other = build(letter, grid, **fields), build(letter, grid, **without)
        if _parameter_shapes(one) != _parameter_shapes(other) or one.macs() != other.macs():
            return True
        if not torch.equal(one(tokens(one)), other(tokens(other))):
            return True
    return False


def _parameter_shapes(attention: Attention) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in attention.named_parameters()}


def check_twin(letter: str) -> str:
    """The fast path shares no code with the naive twin and equals it, forward and backward, in float64."""
    worst = 0.0
    for name, module in every_build(letter):
        if not num_twins(module):
            raise CheckError(f"{type(module).__name__} has no twin")
        check_twins_own_code(module, tokens(module), name)
        module = module.double()
        for what, error in twin_errors(module, tokens(module)).items():
            if not error <= TOLERANCE[torch.float64]:
                raise CheckError(f"{name}: the {what} differs from the naive twin's by {error:.1e} of its largest")
            worst = max(worst, error)
    return f"equals its naive twin forward and backward, largest error {worst:.0e}"


def check_twins_own_code(module: nn.Module, x: Tensor, name: str) -> None:
    """Raises `CheckError` where a twin in a module runs what its fast path runs, and so proves nothing."""
    if shared := shared_functions(module, x):
        raise CheckError(
            f"{name}: the naive twin is no reference, since it runs {', '.join(shared)} as the fast path does; they "
            f"may share weights and the layers of libraries"
        )


def check_cost(letter: str) -> str:
    """The closed form equals what the counter counts."""
    number = 0
    for name, module in every_build(letter):
        stated, counted = module.macs(), counted_macs(module)
        if stated != counted:
            raise CheckError(f"{name}: macs() says {stated:,} multiply-accumulates, the counter {counted:,}")
        number += 1
    return f"macs() equals the counter at all {number} sizes and options"


def check_shapes(letter: str) -> str:
    """Any token grid is mapped to finite tokens of the same shape, and the input is left alone."""
    for name, module in every_build(letter):
        x = tokens(module)
        before = x.clone()
        with torch.no_grad():
            out = module(x)
        if out.shape != x.shape:
            raise CheckError(f"{name}: {list(x.shape)} became {list(out.shape)}")
        if not torch.isfinite(out).all():
            raise CheckError(f"{name}: the output isn't finite")
        if not torch.equal(x, before):
            raise CheckError(f"{name}: the input was written to")
    return f"any grid, {len(GRIDS)} tried"


@torch.no_grad()
def check_samples(letter: str) -> str:
    """In eval mode samples of a batch are independent, and a second call gives the same."""
    for name, module in every_build(letter, ("even", "odd")):
        x = tokens(module, batch=3)
        together, alone = module(x), torch.cat([module(sample) for sample in x.split(1)])
        if _relative(together, alone) > TOLERANCE[torch.float32]:
            raise CheckError(f"{name}: a sample's output depends on the others of its batch")
        if not torch.equal(module(x), together):
            raise CheckError(f"{name}: two calls in eval mode differ")
    return "samples of a batch are independent"


def check_gradients(letter: str) -> str:
    """Every parameter receives a gradient."""
    for name, module in every_build(letter, ("even",)):
        module.train()(tokens(module)).square().sum().backward()
        dead = [key for key, p in module.named_parameters() if p.grad is None or not p.grad.any()]
        if dead:
            raise CheckError(f"{name}: no gradient reaches {', '.join(dead)}")
    return "every parameter receives a gradient"


@torch.no_grad()
def check_dropout(letter: str) -> str:
    """Both dropouts of `Place` act while training, and in eval mode not."""
    first = next(iter(examples(letter).values()))
    for field in ("attention_dropout", "projection_dropout"):
        module = build(letter, GRIDS["even"], **{**first, field: 0.5})
        x = tokens(module)
        if torch.equal(module.train()(x), module(x)):
            raise CheckError(f"{field} does nothing while training")
        if not torch.equal(module.eval()(x), module(x)):
            raise CheckError(f"{field} acts in eval mode")
    return "dropout acts in training only"


def check_autocast(letter: str) -> str:
    """In bfloat16 autocast the output stays near float32's and gradients are finite."""
    worst = 0.0
    for name, module in every_build(letter, ("even", "odd")):
        x = tokens(module)
        with torch.autocast(x.device.type, torch.bfloat16):
            out = module(x)
        out.float().square().sum().backward()
        error = _relative(out.detach().float(), module(x).detach())
        if not error <= AUTOCAST_TOLERANCE:
            raise CheckError(f"{name}: bfloat16 autocast is off by {error:.1e} of the largest value")
        if not all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None):
            raise CheckError(f"{name}: a gradient in bfloat16 autocast isn't finite")
        worst = max(worst, error)
    return f"bfloat16 autocast within {worst:.0e} of float32"


@torch.no_grad()
def check_export(letter: str) -> str:
    """`torch.export` takes it whole, for any batch size, with the same output."""
    dynamic = ({0: torch.export.Dim("batch")},)
    for name, module in every_build(letter, ("odd",)):
        exported = torch.export.export(module, (tokens(module),), dynamic_shapes=dynamic).module()
        x = tokens(module, batch=3)
        if _relative(exported(x), module(x)) > TOLERANCE[torch.float32]:
            raise CheckError(f"{name}: the exported program gives another output")
    return "exports with any batch size"


@torch.no_grad()
def check_compile(letter: str) -> str:
    """`torch.compile` takes it as one graph, with the same output."""
    for name, module in every_build(letter, ("odd",)):
        x = tokens(module)
        torch.compiler.reset()
        compiled = torch.compile(module, fullgraph=True, backend="eager")
        if _relative(compiled(x), module(x)) > TOLERANCE[torch.float32]:
            raise CheckError(f"{name}: the compiled module gives another output")
    return "compiles as one graph"


CHECKS: Mapping[str, Callable[[str], str]] = {
    "options": check_options,
    "twin": check_twin,
    "cost": check_cost,
    "shapes": check_shapes,
    "samples": check_samples,
    "gradients": check_gradients,
    "dropout": check_dropout,
    "autocast": check_autocast,
    "export": check_export,
    "compile": check_compile,
}


def check_letter(letter: str, checks: Iterable[str] = CHECKS) -> Iterator[Finding]:
    """Runs checks on the attention of a letter, each whatever the others found.

    Args:
        letter: of `dualformer.attention.letters()`.
        checks: names of `CHECKS`.

    Raises:
        ConfigError: unknown letter, or a file that can't be imported.
    """
    find(letter)
    for name in checks:
        try:
            yield Finding(name, True, CHECKS[name](letter))
        except CheckError as error:
            yield Finding(name, False, str(error))
        except Exception as error:
            yield Finding(name, False, kind_and_line(error))


def _relative(value: Tensor, expected: Tensor) -> float:
    error = (value - expected).abs().max() / (expected.abs().max() or 1.0)
    return math.inf if torch.isnan(error) else error.item()
