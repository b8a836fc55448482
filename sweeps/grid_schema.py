"""A JSON schema of grid files, by which editors complete fields and underline what can't be meant.

Fields may be nested, dotted, or both (`train: {token_labels.teacher: x}`), so every level knows every path below it.
The schema says what a value looks like; that values suit each other is checked when a grid is read.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

import pydantic

from dualformer.config import Config
from dualformer.config_fields import fields_of
from sweeps.run_config import RunConfig

Schema = dict[str, Any]

MODEL_FIELDS = ("model.name", "train.token_labels.teacher")
OVERRIDE_FIELDS = ("model.overrides", "train.token_labels.overrides")
OWN_MODEL = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
"""A model of one's own, as package.module:function."""


def grid_schema() -> Schema:
    """Returns the schema, in draft 2020-12."""
    run = _object(RunConfig, "")
    axes = {path: _axis(schema) for path, schema in run["properties"].items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A grid of runs",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "description": {"type": "string", "description": "what the grid is to show"},
            "base": {"$ref": "#/$defs/fields", "description": "values of every run; nested or dotted"},
            "axes": {
                "type": "object",
                "description": "every combination; a field with its values, or a free name with labels and fields",
                "properties": axes,
                "patternProperties": {_below(path): _axis({}) for path in OVERRIDE_FIELDS},
                "additionalProperties": {"$ref": "#/$defs/labels"},
            },
            "rows": {
                "type": "array",
                "description": "further runs, on top of base",
                "items": {"$ref": "#/$defs/fields"},
            },
        },
        "$defs": {
            "fields": run,
            "labels": {"type": "object", "minProperties": 1, "additionalProperties": {"$ref": "#/$defs/fields"}},
        },
    }


def _object(cls: type[Config], prefix: str) -> Schema:
    """A mapping of a config's fields, in which the path to a field of a config inside may be dotted."""
    properties: dict[str, Schema] = {}
    free: dict[str, Schema] = {}
    for name, schema in _own_fields(cls, prefix).items():
        properties[name] = schema
        properties |= {f"{name}.{path}": below for path, below in schema.get("properties", {}).items()}
        if prefix + name in OVERRIDE_FIELDS:
            free[_below(name)] = {}
        free |= {f"^{name}\\.{pattern[1:]}": below for pattern, below in schema.get("patternProperties", {}).items()}
    patterns = {"patternProperties": free} if free else {}
    return {"type": "object", "properties": properties, **patterns, "additionalProperties": False}


def _own_fields(cls: type[Config], prefix: str) -> dict[str, Schema]:
    hints, texts = typing.get_type_hints(cls), {field.path: field.text for field in fields_of(cls)}
    schemas = {}
    for field in dataclasses.fields(cls):
        path, hint = prefix + field.name, hints[field.name]
        if isinstance(hint, type) and issubclass(hint, Config):
            schemas[field.name] = _object(hint, f"{path}.")
        else:
            schemas[field.name] = {**_leaf(path, hint), "description": texts.get(field.name, "")}
    return schemas


def _leaf(path: str, hint: Any) -> Schema:
    if path in MODEL_FIELDS:
        nothing: list[Schema] = [{"type": "null"}] if type(None) in typing.get_args(hint) else []
        return {"anyOf": [{"enum": _models()}, {"type": "string", "pattern": OWN_MODEL}, *nothing]}
    if path == "model.attention":
        return {"anyOf": [{"type": "string", "pattern": _attention_pattern()}, {"type": "null"}]}
    if path in OVERRIDE_FIELDS:
        return {"type": "object", "properties": _overrides()}
    return pydantic.TypeAdapter(hint).json_schema()


def _models() -> list[str]:
    from dualformer.registry import list_models

    return list_models()


def _attention_pattern() -> str:
    """Letters of attentions, one or more for a block each; a comma begins the pattern of the next stage."""
    from dualformer import attention

    symbols = f"([{''.join(attention.letters())}][0-9]*)+"
    return f"^{symbols}(,{symbols})*$"


def _overrides() -> dict[str, Schema]:
    """Fields of the networks of the registry; a model of one's own may have others."""
    from dualformer.registry import list_models, model_config

    found: dict[str, list[Schema]] = {}
    for cls in dict.fromkeys(type(model_config(name)) for name in list_models()):
        hints = typing.get_type_hints(cls)
        for field in fields_of(cls):
            if field.path in hints:
                schema = {**pydantic.TypeAdapter(hints[field.path]).json_schema(), "description": field.text}
                found.setdefault(field.path, []).append(schema)
    return {path: _any_of(schemas) for path, schemas in found.items() if path not in _NAMED_ELSEWHERE}


_NAMED_ELSEWHERE = ("name", "num_classes", "num_frames", "crop_size", "attention")


def _any_of(schemas: list[Schema]) -> Schema:
    different = [schema for number, schema in enumerate(schemas) if schema not in schemas[:number]]
    return different[0] if len(different) == 1 else {"anyOf": different}


def _axis(schema: Mapping[str, Any]) -> Schema:
    return {"anyOf": [{"type": "array", "minItems": 1, "items": schema}, {"$ref": "#/$defs/labels"}]}


def _below(path: str) -> str:
    """A regular expression of every dotted path below one."""
    return "^" + path.replace(".", r"\.") + r"\."
