"""Small models of every family with weights that no initialisation gives, for what loads them."""

import torch

from dualformer import create_model

VIT = {"num_frames": 4, "crop_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
SWIN = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 5, "window_size": (4, 3, 3)}
DUAL = {"embed_dims": (8, 8, 16, 16), "depths": (2, 2, 2, 2), "num_heads": (1, 1, 2, 2), "num_classes": 5}
SMALL = {
    "dualformer_tiny": {**DUAL, "num_frames": 4, "crop_size": 32},
    "video_swin_tiny": {**SWIN, "num_frames": 4, "crop_size": 32},
    "timesformer_divided": VIT,
    "timesformer_joint": VIT,
    "timesformer_space": VIT,
    "vivit_base": VIT,
}


def small(name, **changes):
    return create_model(name, **{**SMALL[name], **changes}).eval()


def shaken(model, seed=0):
    """All weights random: nothing hides behind a start value."""
    torch.manual_seed(seed)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def same_logits(one, other):
    clip = torch.randn(2, *one.config.clip_shape)
    with torch.inference_mode():
        torch.testing.assert_close(one(clip), other(clip))
