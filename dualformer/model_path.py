"""Models by import path, `package.module:function`: anybody's network by name, without a line in the registry.

The function is called with `num_classes`, with whatever else is asked for, and with `num_frames` and `crop_size` where
its signature names them. It returns a `ModelConfig`, or a network that `dualformer.adapt` makes a model of.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import os
import pkgutil
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, cast

from torch import nn

from dualformer import suite
from dualformer.adapter import Adapted, adapt
from dualformer.config import Config, ConfigError, nearest
from dualformer.errors import kind_and_line
from dualformer.meta import no_memory, with_memory_if_needed
from dualformer.model_config import ModelConfig

SHAPE = ("num_frames", "crop_size")
OWN_FIELDS = ("num_classes", *SHAPE)
PROJECT = Path(__file__).resolve().parents[1]
SOURCE_SUFFIXES = frozenset({".py", ".yaml", ".yml", ".json", ".toml"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class PathConfig(ModelConfig):
    """What a network by import path is built from.

    As plain data (`to_dict`) the function's further arguments stand beside the other fields, so that
    `create_model(**config.to_dict())` builds the network again.

    Attributes:
        arguments: the function's further arguments, as JSON.
    """

    arguments: str = "{}"

    def to_dict(self) -> dict[str, Any]:
        fields = super().to_dict()
        return {**json.loads(fields.pop("arguments")), **fields}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        known = {field: values[field] for field in ("name", *OWN_FIELDS) if field in values}
        others = {field: value for field, value in values.items() if field not in known}
        return super().from_dict({**known, "arguments": _as_json(str(values.get("name")), others)})

    def resolved(self) -> dict[str, Any]:
        """As plain data, with the defaults of the function's parameters where nothing else was asked for.

        A default that is no plain data stands under its name, or that of its class.
        """
        parameters = _parameters(find_function(self.name)).items()
        defaults = {name: p.default for name, p in parameters if p.default is not p.empty}
        return {**{name: _named(value) for name, value in defaults.items()}, **self.to_dict()}

    def changed(self, **changes: Any) -> Self:
        fields = {**self.to_dict(), **changes}
        # Of the same class, unless the function answers other arguments with something else.
        return cast(Self, path_config(fields.pop("name"), fields))

    def build(self) -> nn.Module:
        """Returns the network that the function makes, adapted.

        Raises:
            ConfigError: the function or the network refuses; or it has another shape or number of classes.
        """
        return with_memory_if_needed(self._build, ConfigError)

    def _build(self) -> nn.Module:
        fields = {key: value for key, value in self.to_dict().items() if key != "name"}
        made, unused = _call(self.name, fields)
        if not isinstance(made, nn.Module):
            raise ConfigError(f"{self.name} returned a network before, and a {type(made).__name__} now")
        _refuse_unknown(self.name, made, unused)
        if isinstance(made, Adapted):
            _check_same(self, made.config)
            made.config = self
            return made
        try:
            model = adapt(made, self.clip_shape, num_classes=self.num_classes, name=self.name)
        except ConfigError as error:
            raise ConfigError(_under(self.name, error)) from None
        model.config = self
        return model


def _named(value: Any) -> Any:
    """A value as JSON gives it back; a name that stands for it where it isn't plain data."""
    if isinstance(value, Config):
        return value.to_dict()
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        named = value if hasattr(value, "__qualname__") else type(value)
        return f"{named.__module__}:{named.__qualname__}"


def _under(path: str, error: Exception) -> str:
    """What an error says, with the model's path in front."""
    return str(error) if str(error).startswith(path) else f"{path}: {error}"


def is_path(name: str) -> bool:
    """Whether a model's name is an import path and no name of the registry."""
    return ":" in name


def path_config(path: str, changes: Mapping[str, Any]) -> ModelConfig:
    """Returns the config of a model by import path.

    Args:
        path: `package.module:function`; the module is looked for in the working directory as well.
        changes: `num_classes`, `num_frames`, `crop_size`, and arguments of the function, or fields of the config that
            it returns. Plain data: they go through JSON.

    Raises:
        ConfigError: there is no such module or function, it refuses, or returns something else; a bare network without
            the shape of its clips; an argument that nobody knows.
    """
    return _config(path, find_function(path), _as_json(path, {"num_classes": 400, **changes}))


@functools.lru_cache(maxsize=1000)
def _config(path: str, function: Callable[..., Any], changes_json: str) -> ModelConfig:
    """The config by a function and what is asked of it."""
    changes = json.loads(changes_json)
    with no_memory():
        made, unused = with_memory_if_needed(lambda: _call(path, changes), ConfigError)
    if isinstance(made, ModelConfig):
        return _of_config(path, made, unused, changes)
    _refuse_unknown(path, made, unused)
    return _of_network(path, function, made, changes)


def _refuse_unknown(path: str, made: nn.Module, unused: Mapping[str, Any]) -> None:
    """Raises `ConfigError` for what a function that returns a network was given and doesn't take."""
    if "num_classes" in unused and not isinstance(made, Adapted):
        raise ConfigError(f"{path} must take num_classes and build a network of so many classes")
    if unknown := [field for field in unused if field not in OWN_FIELDS]:
        valid = {*SHAPE, *_parameters(find_function(path))}
        raise ConfigError(f"{path} takes no argument '{unknown[0]}'{nearest(unknown[0], valid)}")


def _of_config(path: str, made: ModelConfig, unused: Mapping[str, Any], changes: Mapping[str, Any]) -> ModelConfig:
    """The config that a function returned, under the function's path, with the fields that it doesn't take itself."""
    config = _renamed(path, made, unused, changes)
    fields = {key: value for key, value in config.to_dict().items() if key != "name"}
    again = _renamed(path, *_call(path, fields), fields)
    if again != config:
        first, second = config.to_dict(), again.to_dict()
        differ = sorted(key for key in {*first, *second} if first.get(key) != second.get(key))
        raise ConfigError(
            f"{path}: its config can't be built again from its own fields ({', '.join(differ) or 'another class'}); an "
            f"argument that is named like a field must mean that field, and any other needs to show in one"
        )
    return config


def _renamed(path: str, made: Any, unused: Mapping[str, Any], changes: Mapping[str, Any]) -> ModelConfig:
    asked = {field: changes[field] for field in OWN_FIELDS if field in changes}
    try:
        return dataclasses.replace(made, name=path).changed(**{**unused, **asked})
    except ConfigError as error:
        raise ConfigError(_under(path, error)) from None


def _of_network(path: str, function: Callable[..., Any], made: nn.Module, changes: Mapping[str, Any]) -> PathConfig:
    """The config of a network that a function returned: its clips are as asked, as it knows, or as the defaults say."""
    known = made.config.to_dict() if isinstance(made, Adapted) else _defaults(function)
    fields = {**{field: known[field] for field in SHAPE if field in known}, **changes}
    if missing := [field for field in SHAPE if field not in fields]:
        raise ConfigError(
            f"{path} returns a network that doesn't say which clips it takes; give {' and '.join(missing)}"
        )
    try:
        config = PathConfig.from_dict({"name": path, **fields})
    except ConfigError as error:
        raise ConfigError(_under(path, error)) from None
    if isinstance(made, Adapted):
        _check_same(config, made.config)
    return config


def _check_same(config: ModelConfig, adapted: ModelConfig) -> None:
    """Raises `ConfigError` where a function adapted its network for something else than was asked for."""
    for field in OWN_FIELDS:
        if (wanted := getattr(config, field)) != (has := getattr(adapted, field)):
            raise ConfigError(
                f"{config.name} returns a network with {field} {has}, and {wanted} is asked for; let the function take "
                f"{field}"
            )


def _call(path: str, fields: Mapping[str, Any]) -> tuple[ModelConfig | nn.Module, dict[str, Any]]:
    """Calls the function of a path with the fields that it takes; returns what it made, and the other fields."""
    function = find_function(path)
    parameters = _parameters(function)
    named = {field: value for field, value in fields.items() if field in parameters}
    if missing := [name for name, p in parameters.items() if p.default is p.empty and name not in named]:
        raise ConfigError(f"{path} needs a value for {' and '.join(missing)}")
    others = {field: value for field, value in fields.items() if field not in named}
    if not _takes_all(function):
        return _made(path, function, named), others
    shape = {field: others.pop(field) for field in SHAPE if field in others}
    try:
        return _made(path, function, {**named, **others}), shape
    except ConfigError:
        # What it hands on may have the fields of a config already; then they are ours to set.
        made = _made(path, function, named) if others else None
        if not isinstance(made, ModelConfig):
            raise
        return made, {**others, **shape}


def _made(path: str, function: Callable[..., Any], arguments: dict[str, Any]) -> ModelConfig | nn.Module:
    """What a function returns for some arguments, `crop_size` among them as (height, width)."""
    if isinstance(size := arguments.get("crop_size"), list):
        arguments = {**arguments, "crop_size": tuple(size)}
    try:
        made = function(**arguments)
    except ConfigError as error:
        raise ConfigError(_under(path, error)) from None
    except Exception as error:
        raise ConfigError(f"{path}: {kind_and_line(error)}") from error
    if not isinstance(made, ModelConfig | nn.Module):
        raise ConfigError(f"{path} returned a {type(made).__name__} where a ModelConfig or a torch.nn.Module is wanted")
    return made


def find_function(path: str) -> Callable[..., Any]:
    """Returns what a path names.

    Raises:
        ConfigError: it isn't a path, there is no such module or function (the nearest are named), or importing fails.
    """
    module_name, _, name = path.partition(":")
    if not _is_dotted(module_name) or not _is_dotted(name) or module_name.endswith(".py"):
        raise ConfigError(f"'{path}' is no model: an import path is package.module:function{_spelt(module_name, name)}")
    found: Any = _import(module_name)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{path}: {module_name} has no function '{name}'{nearest(name, _functions(found))}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"{path} is {type(found).__name__} and no function; one that returns a model is wanted")
    return found


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _spelt(module_name: str, function: str) -> str:
    """A hint where a file is named in place of a module."""
    stem = module_name.removesuffix(".py").removeprefix("./").replace("/", ".")
    return f"; did you mean '{stem}:{function}'?" if stem != module_name and _is_dotted(stem) else ""


def _functions(module: Any) -> list[str]:
    return [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]


def _import(name: str) -> Any:
    """A module, of the working directory too: a console script doesn't look there by itself."""
    if name in sys.modules:
        return sys.modules[name]
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last, so that it hides nothing that is installed
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing == name or name.startswith(f"{missing}."):
            hint = nearest(missing, modules) if (modules := _modules_beside(missing, here)) else ""
            raise ConfigError(f"no module '{missing}' in this folder or installed{hint}") from None
        raise ConfigError(f"importing {name}: {error}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"importing {name}: {kind_and_line(error)}") from error


def _modules_beside(name: str, folder: str) -> list[str]:
    """Dotted names of the modules of a missing one's package, or of a folder."""
    package = name.rpartition(".")[0]
    places = list(getattr(sys.modules.get(package), "__path__", ())) if package else [folder]
    return [f"{package}.{module.name}".lstrip(".") for module in pkgutil.iter_modules(places)]


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a function that can be given by name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in inspect.signature(function).parameters.items() if p.kind in kinds}


def _takes_all(function: Callable[..., Any]) -> bool:
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Defaults of a function's parameters, where they have any but None."""
    return {
        name: parameter.default
        for name, parameter in _parameters(function).items()
        if parameter.default not in (inspect.Parameter.empty, None)
    }


def _as_json(path: str, values: Mapping[str, Any]) -> str:
    for field, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise ConfigError(
                f"{path}: '{field}' must be plain data (numbers, texts, lists, mappings), got {value!r}"
            ) from None
    return json.dumps(values, sort_keys=True)


def source_files(path: str) -> list[Path]:
    """Returns the files that a model by import path is made of, as far as they belong to neither an installed package
    nor this project: those of its top-level module or package, and of the modules beside it that these import.

    Nothing is imported.

    Raises:
        ConfigError: it isn't a path.
    """
    module_name, _, function = path.partition(":")
    if not _is_dotted(module_name) or not _is_dotted(function):
        raise ConfigError(f"'{path}' is no import path, package.module:function")
    found: dict[Path, None] = {}
    waiting = [module_name.split(".")[0]]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        files = list(_files_of(name))
        found.update(dict.fromkeys(files))
        waiting += [imported for file in files if file.suffix == ".py" for imported in _imports(file)]
    return sorted(found)


def _files_of(name: str) -> Iterator[Path]:
    """Files of a top-level module or package of the user's own; none of any other."""
    spec = _spec(name)
    if spec is None:
        return
    if spec.submodule_search_locations is None:
        places = [Path(spec.origin)] if spec.origin and spec.has_location else []
    else:
        places = [Path(place) for place in spec.submodule_search_locations]
    for place in places:
        if _is_own(name, place.resolve()):
            inside = sorted(place.rglob("*")) if place.is_dir() else [place]
            yield from (
                file.resolve()
                for file in inside
                if file.suffix in SOURCE_SUFFIXES and file.is_file() and "__pycache__" not in file.parts
            )


def _spec(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.machinery.PathFinder.find_spec(name, [*sys.path, os.getcwd()])
    except (ImportError, ValueError, AttributeError):
        return None


def _is_own(name: str, place: Path) -> bool:
    """Whether a file or folder is neither installed nor a part of Python or of this project."""
    if name in suite.PROJECT and place.is_relative_to(PROJECT):
        return False
    installed = {*site.getsitepackages(), site.getusersitepackages()}
    installed |= {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    foreign: object = {"site-packages", "dist-packages"} & set(place.parts)
    foreign = foreign or any(place.parent.glob("*.dist-info"))
    return not foreign and not any(place.is_relative_to(Path(root).resolve()) for root in installed)


def _imports(file: Path) -> set[str]:
    """Top-level names that a file imports."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names
