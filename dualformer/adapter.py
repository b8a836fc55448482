"""Any network that classifies clips, made a model like ours: counted, timed, trained, evaluated and drawn as it is.

`adapt` runs the network once on the shape of one clip and looks at what its modules give: how many logits there are,
which linear layer makes them, which map or tokens come before it, and which blocks repeat. No weight is changed, and
the state dict keeps the names of the network itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from dualformer.config import ConfigError
from dualformer.errors import first_line
from dualformer.model_config import ModelConfig
from dualformer.model_contract import LacksPartError
from dualformer.modes import evaluating

Call = Callable[[nn.Module, Tensor], Any]
Grid = tuple[int, int, int]

_PREFIX = "network."
_LISTS = (nn.ModuleList, nn.Sequential)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptedConfig(ModelConfig):
    """Shape and classes of a network that was adapted at hand; only its owner knows how it was built."""

    def build(self) -> nn.Module:
        """Raises `ConfigError`: a module at hand can't be built a second time."""
        raise ConfigError(
            f"{self.name} was adapted at hand, so it can't be built again from its config; name the function that "
            f"builds it instead: create_model('package.module:function', ...)"
        )


def adapt(
    module: nn.Module,
    clip_shape: Sequence[int],
    *,
    num_classes: int | None = None,
    call: Call | None = None,
    features: Call | None = None,
    name: str | None = None,
) -> Adapted:
    """Makes a network a model of this project.

    Args:
        module: any network; it is neither copied nor changed, and put back into the mode it is in.
        clip_shape: (3, T, H, W) of one clip.
        num_classes: length of the logits; None takes as many as the network gives.
        call: maps the network and a batch of clips [B, 3, T, H, W] to logits [B, num_classes], where its own call
            differs. An output with an attribute `logits` needs none.
        features: maps the network and a batch of clips to the map [B, C, t, h, w] before pooling, where it isn't found
            or another one is meant.
        name: of the model in tables and messages; None means the name of the module's class.

    Returns:
        A model as `dualformer.model_contract.VideoModel` says, with `head`, `forward_features`, `logits_and_features`
        and `transformer_blocks` as far as they were found.

    Raises:
        ConfigError: the network can't take such a clip, or doesn't give logits for it.
    """
    if not isinstance(module, nn.Module):
        raise ConfigError(f"adapt takes a torch module, got a {type(module).__name__}")
    config = _config(name or type(module).__name__, clip_shape, num_classes or 1)
    seen = _look(module, config.clip_shape, call)
    if num_classes is not None and seen.num_classes != num_classes:
        raise ConfigError(f"{config.name} gives {seen.num_classes} logits, and {num_classes} classes are asked for")
    return Adapted(module, dataclasses.replace(config, num_classes=seen.num_classes), seen, call, features)


class Adapted(nn.Module):
    """A network in the clothes of our models; made by `adapt`.

    Attributes:
        network: the module that was adapted.
        config: shape and classes.
        head: the last linear layer where it makes the logits, else None.
        lacks: for each optional part that wasn't found, why not.
    """

    published_macs_include_head = True  # papers and libraries count such networks whole

    def __init__(
        self, network: nn.Module, config: ModelConfig, seen: _Seen, call: Call | None, features: Call | None
    ) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.training = network.training
        self._call, self._features = call, features
        self._place, self._block_names, self._head_name = seen.place, seen.blocks, seen.head
        self.lacks = dict(seen.lacks)
        self.register_state_dict_post_hook(_drop_prefix)
        self.register_load_state_dict_pre_hook(_add_prefix)

    @property
    def head(self) -> nn.Linear | None:
        return None if self._head_name is None else cast(nn.Linear, self.network.get_submodule(self._head_name))

    def forward(self, clip: Tensor) -> Tensor:
        """Maps normalised clips [B, 3, T, H, W] to logits [B, num_classes].

        Raises:
            ValueError: clips of another shape, or an output that isn't logits.
        """
        if clip.ndim != 5 or tuple(clip.shape[1:]) != self.config.clip_shape:
            wanted = ", ".join(map(str, self.config.clip_shape))
            raise ValueError(f"{self.config.name} takes clips [B, {wanted}] and got {list(clip.shape)}")
        logits = _logits(self.network, clip, self._call)
        if not isinstance(logits, Tensor) or logits.shape != (clip.shape[0], self.config.num_classes):
            raise ValueError(_no_logits(self.config.name, logits))
        return logits

    def forward_features(self, clip: Tensor) -> Tensor:
        """Maps clips [B, 3, T, H, W] to the map before pooling, [B, C, t, h, w].

        Raises:
            LacksPartError: no map was found; says why.
        """
        return self.logits_and_features(clip)[1] if self._features is None else self._features(self.network, clip)

    def logits_and_features(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and map of one forward pass; two where the map comes from `features`."""
        if self._features is not None:
            return self(clip), self._features(self.network, clip)
        if self._place is None:
            raise LacksPartError(
                f"{self.config.name} has no forward_features, so its map can't be had: "
                f"{self.lacks['forward_features']}; give adapt(..., features=...)"
            )
        with self._place.caught(self.network) as maps:
            return self(clip), maps[-1]

    def transformer_blocks(self) -> list[nn.Module]:
        """The blocks that repeat, in order."""
        return [self.network.get_submodule(name) for name in self._block_names]


def _drop_prefix(model: Adapted, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """State dicts are those of the network itself."""
    for key in [key for key in state if key.startswith(prefix + _PREFIX)]:
        state[prefix + key.removeprefix(prefix + _PREFIX)] = state.pop(key)


def _add_prefix(model: Adapted, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        state[f"{prefix}{_PREFIX}{key.removeprefix(prefix)}"] = state.pop(key)


def _config(name: str, clip_shape: Sequence[int], num_classes: int) -> AdaptedConfig:
    shape = list(clip_shape)
    if len(shape) != 4 or not all(isinstance(size, int) and size > 0 for size in shape) or shape[0] != 3:
        raise ConfigError(f"clip_shape is (3, frames, height, width), got {tuple(clip_shape)}")
    return AdaptedConfig.from_dict(
        {"name": name, "num_classes": num_classes, "num_frames": shape[1], "crop_size": shape[2:]}
    )


def _logits(network: nn.Module, clip: Tensor, call: Call | None) -> Any:
    out = network(clip) if call is None else call(network, clip)
    return getattr(out, "logits", out)


def _no_logits(name: str, out: Any) -> str:
    got = f"a tensor {list(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
    return (
        f"{name} gave {got} where logits [B, num_classes] are wanted; say how it is called by "
        f"adapt(..., call=lambda module, clip: ...)"
    )


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a network makes the map before pooling, and how it lies there.

    Attributes:
        module: qualified name of the module whose output it is.
        grid: (t, h, w) of tokens [B, lead + t * h * w, C]; None for a map of five dimensions.
        lead: tokens before those of the grid.
        channels_last: whether a map is [B, t, h, w, C].
    """

    module: str
    grid: Grid | None = None
    lead: int = 0
    channels_last: bool = False

    @contextlib.contextmanager
    def caught(self, network: nn.Module) -> Iterator[list[Tensor]]:
        """Gives a list that fills with the map of every pass, as a part of the graph of the logits."""
        maps: list[Tensor] = []

        def catch(_: nn.Module, __: Any, output: Any) -> Any:
            tensor, again = _first_tensor(output)
            if tensor is None:
                raise LacksPartError(f"{self.module} gave a map before, and a {type(output).__name__} now")
            features = self._as_map(tensor)
            maps.append(features)
            # What follows gets the map itself, so that there is a gradient of the logits with respect to it.
            return output if self.lead else again(self._as_it_was(features))

        handle = network.get_submodule(self.module).register_forward_hook(catch)
        try:
            yield maps
        finally:
            handle.remove()

    def _as_map(self, out: Tensor) -> Tensor:
        if self.grid is not None:
            return out[:, self.lead :].transpose(1, 2).unflatten(2, self.grid)
        return out.movedim(-1, 1) if self.channels_last else out

    def _as_it_was(self, features: Tensor) -> Tensor:
        if self.grid is not None:
            return features.flatten(2).transpose(1, 2)
        return features.movedim(1, -1) if self.channels_last else features


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What one pass showed of a network: number of logits, names of its head and blocks, and where its map is."""

    num_classes: int
    head: str | None
    place: _Place | None
    blocks: tuple[str, ...]
    lacks: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class _Output:
    """Name, module and shape of what one call of a module gave."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]


def _look(network: nn.Module, clip_shape: Sequence[int], call: Call | None) -> _Seen:
    """Runs a network on one clip, without arithmetic where it can, and says what was seen."""
    try:
        out, outputs = _pass_on_meta(network, clip_shape, call)
    except Exception:  # what needs values to go on, such as `item()`, gets them
        out, outputs = _pass(network, clip_shape, call)
    name = type(network).__name__
    if not isinstance(out, Tensor) or out.ndim != 2 or out.shape[0] != 1:
        raise ConfigError(_no_logits(name, out))
    num_classes = out.shape[1]
    head = _find_head(outputs, num_classes)
    place, why = _find_place(outputs, head, clip_shape)
    blocks = _find_blocks(network)
    lacks = {} if head is not None else {"head": "no linear layer comes last and ends in the classes"}
    lacks |= {} if place is not None else {"forward_features": why}
    lacks |= {} if blocks else {"blocks": "no list of its modules holds several of one kind"}
    return _Seen(num_classes, None if head is None else head.name, place, blocks, lacks)


def _pass_on_meta(network: nn.Module, clip_shape: Sequence[int], call: Call | None) -> tuple[Any, list[_Output]]:
    """One pass of a network whose tensors have shapes and no values."""
    runner = _Runner(network, call)
    tensors = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in [*runner.named_parameters(), *runner.named_buffers()]
    }
    clip = torch.empty(1, *clip_shape, dtype=_dtype(network), device="meta")
    with evaluating(network), torch.no_grad(), torch.device("meta"), _recorded(network) as outputs:
        return torch.func.functional_call(runner, tensors, (clip,)), outputs


def _pass(network: nn.Module, clip_shape: Sequence[int], call: Call | None) -> tuple[Any, list[_Output]]:
    """One pass of a network with its values, on a clip of zeros.

    Raises:
        ConfigError: what the network says against it.
    """
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    clip = torch.zeros(1, *clip_shape, dtype=_dtype(network), device=device)
    try:
        with evaluating(network), torch.no_grad(), torch.random.fork_rng(devices=[]), _recorded(network) as outputs:
            return _logits(network, clip, call), outputs
    except Exception as error:
        first = first_line(error)
        hint = "" if call else "; where it wants clips in another form, give adapt(..., call=lambda module, clip: ...)"
        shape = list(clip.shape)
        raise ConfigError(f"{type(network).__name__} can't take clips {shape}: {first}{hint}") from error


class _Runner(nn.Module):
    """A network and its call as one module."""

    def __init__(self, network: nn.Module, call: Call | None) -> None:
        super().__init__()
        self.network, self.call = network, call

    def forward(self, clip: Tensor) -> Any:
        return _logits(self.network, clip, self.call)


def _dtype(network: nn.Module) -> torch.dtype:
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.get_default_dtype())


@contextlib.contextmanager
def _recorded(network: nn.Module) -> Iterator[list[_Output]]:
    """Gives a list that fills with what the modules of a network give, in the order in which they are done."""
    outputs: list[_Output] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            tensor, _ = _first_tensor(output)
            if tensor is not None:
                outputs.append(_Output(name, module, tuple(tensor.shape)))

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in network.named_modules() if name]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _first_tensor(output: Any) -> tuple[Tensor | None, Callable[[Tensor], Any]]:
    """The tensor that a module gives, first of a tuple, and how to put another in its place."""
    if isinstance(output, Tensor):
        return output, lambda tensor: tensor
    if type(output) is tuple and output and isinstance(output[0], Tensor):
        return output[0], lambda tensor: (tensor, *output[1:])
    return None, lambda tensor: output


def _find_head(outputs: Sequence[_Output], num_classes: int) -> _Output | None:
    """The last linear layer, where it ends in the classes."""
    linear = [output for output in outputs if isinstance(output.module, nn.Linear)]
    return linear[-1] if linear and linear[-1].module.out_features == num_classes else None


def _find_place(
    outputs: Sequence[_Output], head: _Output | None, clip_shape: Sequence[int]
) -> tuple[_Place | None, str]:
    """Where the last map before the head is; None and why where there is none."""
    before = list(outputs[: outputs.index(head)] if head is not None else outputs)
    channels = None if head is None else head.module.in_features
    for number, output in reversed(list(enumerate(before))):
        shape = output.shape
        if shape[0] != 1 or channels not in (None, *shape[1:]):
            continue
        if len(shape) == 5 and math.prod(shape) > max(shape[1], shape[4]):
            if channels in (None, shape[1]):
                return _Place(output.name), ""
            if channels == shape[4]:
                return _Place(output.name, channels_last=True), ""
        if len(shape) == 3 and shape[1] > 1 and channels in (None, shape[2]):
            return _find_tokens(output, before[:number])
    return None, "none of its modules gives a map or tokens with the head's channels"


def _find_tokens(output: _Output, before: Sequence[_Output]) -> tuple[_Place | None, str]:
    """The grid of tokens, if it follows from the map that a 3D convolution made of the clip.

    Such a map becomes tokens by time, height and width, in this order. Tokens of single frames have been laid out in
    either order, and a wrong guess would go unnoticed.
    """
    maps = [seen.shape[2:] for seen in before if isinstance(seen.module, nn.Conv3d)]
    for t, h, w in maps[:1]:
        for scale in range(1, min(h, w) + 1):
            cells = t * (h // scale) * (w // scale)
            lead = output.shape[1] - cells
            if h % scale == w % scale == 0 and lead in (0, 1, 2):
                return _Place(output.name, grid=(t, h // scale, w // scale), lead=lead), ""
    return None, f"where its {output.shape[1]} tokens lie in the clip isn't known"


def _find_blocks(network: nn.Module) -> tuple[str, ...]:
    """Names of the outermost modules of the kinds of which some list of modules holds several, and nothing else.

    A layer without layers of its own is no block.
    """
    kinds: set[type[nn.Module]] = set()
    for modules in network.modules():
        if isinstance(modules, _LISTS) and len(modules) > 1 and len({type(module) for module in modules}) == 1:
            kinds |= {type(module) for module in modules if any(module.children()) and not isinstance(module, _LISTS)}
    names: list[str] = []
    for name, module in network.named_modules():
        if type(module) in kinds and not any(name.startswith(f"{outer}.") for outer in names):
            names.append(name)
    return tuple(names)
