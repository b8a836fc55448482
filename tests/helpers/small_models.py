"""Every model of the registry, small enough to run in milliseconds: the structure of its own, less of everything."""

import dataclasses

import torch

from dualformer import create_model, list_models
from dualformer.registry import model_config

# By field and type of the published value. A model takes the entries it has a field for, so a new one needs none here.
REDUCED = {
    ("num_frames", int): 8,
    ("crop_size", tuple): (32, 32),
    ("embed_dims", tuple): (32, 64),
    ("embed_dim", int): 32,
    ("depths", tuple): (2, 2),
    ("depth", int): 2,
    ("num_heads", tuple): (1, 2),
    ("num_heads", int): 2,
    ("window_size", tuple): (2, 3, 4),
    ("fine_sizes", tuple): ((4, 4, 4), (4, 2, 2)),
    ("coarse_sizes", tuple): ((2, 2, 2), None),
}


def reduced(name):
    """The fields of `name`'s config that are reduced, by what they are reduced to."""
    published = model_config(name)
    types = {field.name: type(getattr(published, field.name)) for field in dataclasses.fields(published)}
    return {field: REDUCED[field, kind] for field, kind in types.items() if (field, kind) in REDUCED}


def small_config(name, **changes):
    """The published config of `name`, for five classes, with everything reduced that `changes` doesn't set."""
    return model_config(name, **{"num_classes": 5, **reduced(name), **changes})


def small_model(name, **changes):
    """A model of `small_config`, with weights that follow from the config alone."""
    torch.manual_seed(0)
    fields = small_config(name, **changes).to_dict()
    return create_model(fields.pop("name"), **fields)


def clip_for(model, batch=2):
    """Normal noise of the shape the model was built for, the same at every call."""
    return torch.randn(batch, *model.config.clip_shape, generator=torch.Generator().manual_seed(1))


def distinct_models():
    """One name of all that are the same network once they are small."""
    names = {}
    for name in list_models():
        fields = small_config(name).to_dict()
        structure = {field: value for field, value in fields.items() if field not in ("name", "drop_path_rate")}
        names.setdefault(str(structure), name)
    return list(names.values())


TWO_STAGES = {
    "num_classes": 4,
    "embed_dims": (16, 32),
    "depths": (2, 2),
    "num_heads": (1, 2),
    "fine_sizes": ((2, 2, 2), None),
    "coarse_sizes": ((1, 1, 1), None),
    "num_frames": 4,
    "crop_size": 16,
}
"""Fields of a DualFormer that a CPU runs in no time."""
