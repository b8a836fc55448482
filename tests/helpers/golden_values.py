"""Golden files: what published implementations compute for weights and a clip that a rule makes from names alone.

Each `tests/golden/<name>.json` holds the state dict of one implementation as names and shapes, in the layout of its own
checkpoints, and features and logits in float64. `python tests/golden_values.py` writes those of the libraries again
(small sizes; it needs transformers and torchvision); the others come from the authors' repositories.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / "golden"
CONSTRUCTED = ("num_batches_tracked", "relative_position_index")  # not weights: construction gives them

SMALL_VIT = {"num_frames": 4, "crop_size": 32, "num_classes": 5, "embed_dim": 24, "depth": 2, "num_heads": 3}
# A map of 3x13x23 tokens: windows are padded and shifted in space, shrink in time, and later in space as well.
SMALL_SWIN = {
    "num_frames": 5,
    "crop_size": (50, 90),
    "num_classes": 5,
    "embed_dim": 24,
    "depths": (2, 2, 2, 2),
    "num_heads": (2, 4, 8, 16),
}
LIBRARIES = {
    "huggingface_timesformer_divided": ("timesformer_divided", SMALL_VIT),
    "huggingface_timesformer_joint": ("timesformer_joint", SMALL_VIT),
    "huggingface_vivit": ("vivit_base", SMALL_VIT),
    "torchvision_swin3d": ("video_swin_tiny", SMALL_SWIN),
}


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def ruled_weight(name, shape):
    """The float64 entry that the rule gives a name and shape."""
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(int(np.prod(shape))).reshape(shape)
    if name.endswith("running_var"):
        values = 1 + 0.1 * abs(values)
    elif name.endswith("running_mean"):
        values = 0.1 * values
    elif len(shape) == 1:
        values = 0.1 * values + name.endswith(".weight")
    else:
        values = values / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(values)


def ruled_state(shapes):
    """The state dict that the rule gives names and shapes; entries that construction gives are zeros."""
    return {
        name: torch.zeros(shape, dtype=torch.long) if name.endswith(CONSTRUCTED) else ruled_weight(name, shape)
        for name, shape in shapes.items()
    }


def ruled_clip(shape):
    """The clip [B, 3, T, H, W] in float64."""
    return torch.from_numpy(np.random.RandomState(0).standard_normal(shape))


def library_model(name):
    """A library's own model of the size in `LIBRARIES`, and the function that gives its logits for a clip.

    Raises:
        ImportError: if the library isn't installed.
    """
    size = dict(LIBRARIES[name][1])
    return _torchvision_swin(size) if name.startswith("torchvision") else _hugging_face(name, size)


def _hugging_face(name, size):
    import transformers

    config = {
        "image_size": size["crop_size"],
        "num_frames": size["num_frames"],
        "hidden_size": size["embed_dim"],
        "num_hidden_layers": size["depth"],
        "num_attention_heads": size["num_heads"],
        "intermediate_size": 4 * size["embed_dim"],
        "num_labels": size["num_classes"],
    }
    if name == "huggingface_vivit":
        config = transformers.VivitConfig(tubelet_size=[2, 16, 16], **config)
        model = transformers.VivitForVideoClassification(config).eval()
    else:
        kind = f"{name.rsplit('_', 1)[1]}_space_time"
        config = transformers.TimesformerConfig(patch_size=16, attention_type=kind, **config)
        model = transformers.TimesformerForVideoClassification(config).eval()
    return model, lambda clip: model(clip.transpose(1, 2)).logits


def _torchvision_swin(size):
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # a build whose compiled operators don't fit this torch; the models need none of them
        for module in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        for operator in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    model = SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=size["embed_dim"],
        depths=list(size["depths"]),
        num_heads=list(size["num_heads"]),
        window_size=[8, 7, 7],
        num_classes=size["num_classes"],
    ).eval()
    return model, model


def described(tensor):
    flat = tensor.flatten()
    at = np.linspace(0, len(flat) - 1, min(16, len(flat))).astype(int)
    return {
        "shape": list(tensor.shape),
        "numel": len(flat),
        "sum": flat.sum().item(),
        "l2": flat.norm().item(),
        "at": [[int(i), flat[i].item()] for i in at],
    }


@torch.no_grad()
def record(name):
    model, logits_of = library_model(name)
    constructed = {key: value for key, value in model.state_dict().items() if key.endswith(CONSTRUCTED)}
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    model.double().load_state_dict(ruled_state(shapes) | constructed)
    ours, size = LIBRARIES[name]
    height, width = (size["crop_size"],) * 2 if isinstance(size["crop_size"], int) else size["crop_size"]
    clip_shape = [2, 3, size["num_frames"], height, width]
    library = "transformers" if name.startswith("huggingface") else "torchvision"
    values = {
        "model": ours,
        "overrides": size,
        "source": f"{library} {sys.modules[library].__version__}",
        "input_shape": clip_shape,
        "parameters": sum(p.numel() for p in model.parameters()),
        "state_dict": shapes,
        "logits": described(logits_of(ruled_clip(clip_shape))),
    }
    (GOLDEN / f"{name}.json").write_text(json.dumps(values, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    for library_name in sys.argv[1:] or LIBRARIES:
        record(library_name)
