"""Imports point one way, late ones included: between packages, between the wings of `sweeps`, and between modules."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("dualformer", "baselines", "slurm", "sweeps", "analysis")

MAY_IMPORT = {
    "dualformer": (),
    "baselines": ("dualformer",),
    "slurm": ("dualformer.config", "dualformer.strict_yaml"),
    "sweeps.measuring": ("dualformer", "sweeps.run_config", "sweeps.machine_lock", "sweeps.device"),
    "sweeps.training": ("dualformer", "slurm.task", "sweeps.run_config", "sweeps.run_context", "sweeps.machine_lock"),
    "sweeps.launching": (
        *("dualformer", "slurm", "sweeps.run_config", "sweeps.source"),
        *("sweeps.measuring.cost", "sweeps.measuring.options"),
        *("sweeps.training.schedule", "sweeps.training.tracking", "sweeps.training.processes"),
    ),
    "sweeps": ("dualformer", "baselines", "slurm", "sweeps.launching", "sweeps.measuring", "sweeps.training"),
    "analysis": (
        *("dualformer.results", "dualformer.arguments", "dualformer.config", "dualformer.attention.style"),
        *("sweeps.run_config", "analysis.checks"),
    ),
    "analysis.checks": (  # counts networks and scores predictions again, by the code that did so first
        *("analysis", "dualformer.results", "dualformer.config", "dualformer.data.config", "sweeps.run_config"),
        *("dualformer.macs", "dualformer.meta", "dualformer.registry"),
        *("sweeps.training.predictions", "sweeps.training.scoring", "sweeps.training.tables"),
    ),
}
"""What each package or wing may import besides itself; whoever may import a package may import all in it."""


def modules() -> dict[str, Path]:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = modules()


def imports(path: Path) -> set[str]:
    """Our modules that a file imports, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            near = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            start = ".".join([*near, *([node.module] if node.module else [])])
            names += [f"{start}.{alias.name}" for alias in node.names]
    return {module for name in names if (module := module_of(name))}


def module_of(name: str) -> str:
    """The module of ours that a dotted name is or lies in; "" where it is of others."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def lies_in(name: str, place: str) -> bool:
    return f"{name}.".startswith(f"{place}.")


def room(module: str) -> str:
    """The package or the wing of a module."""
    return max((place for place in MAY_IMPORT if lies_in(module, place)), key=len)


IMPORTS = {module: imports(path) - {module} for module, path in MODULES.items()}


@pytest.mark.parametrize("place", MAY_IMPORT)
def test_a_package_imports_what_it_may(place):
    wrong = [
        f"{module} imports {other}"
        for module in MODULES
        if room(module) == place
        for other in IMPORTS[module]
        if room(other) != place and not any(lies_in(other, allowed) for allowed in MAY_IMPORT[place])
    ]
    assert wrong == []


@pytest.mark.parametrize("place", MAY_IMPORT)
def test_nothing_is_allowed_that_nobody_needs(place):
    used = {other for module in MODULES if room(module) == place for other in IMPORTS[module]}
    named_late = {"baselines"}  # the registry names the baselines' modules as text
    for allowed in set(MAY_IMPORT[place]) - named_late:
        assert any(lies_in(other, allowed) for other in used), allowed


def test_no_module_imports_itself_round_a_ring():
    """A package's own file may import what is in the package, which imports the package first."""
    left = {module: {other for other in found if not lies_in(other, module)} for module, found in IMPORTS.items()}
    while free := [module for module, found in left.items() if not found & left.keys()]:
        for module in free:
            del left[module]
    assert left == {}
