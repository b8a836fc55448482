"""Networks of other people's making: stand-ins of every kind of call that libraries have, and the libraries' own.

The libraries' are built where these are installed; tests skip with the reason where they aren't.
"""

from __future__ import annotations

import importlib
import types

import pytest
import torch
from torch import nn

CLIP_SHAPE = (3, 4, 32, 32)
CLASSES = 5


class ConvNet(nn.Module):
    """A convolutional network whose head is called otherwise."""

    def __init__(self, num_classes=CLASSES, width=8):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(3, width, 3, stride=2, padding=1), nn.BatchNorm3d(width), nn.ReLU(), nn.Conv3d(width, width, 1)
        )
        self.fc = nn.Linear(width, num_classes)

    def forward(self, clip):
        return self.fc(self.body(clip).mean(dim=(2, 3, 4)))


class ConvHead(nn.Module):
    """Its classes come from a convolution: there is no linear head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv3d(3, 8, 3, stride=2, padding=1)
        self.classes = nn.Conv3d(8, CLASSES, 1)

    def forward(self, clip):
        return self.classes(self.body(clip).relu()).mean(dim=(2, 3, 4))


class Encoder(nn.Module):
    """Tokens of a 3D convolution through torch's own encoder; a class token, or the mean of all."""

    def __init__(self, class_token):
        super().__init__()
        self.patches = nn.Conv3d(3, 16, (2, 8, 8), stride=(2, 8, 8))
        self.token = nn.Parameter(torch.zeros(1, 1, 16)) if class_token else None
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.norm = nn.LayerNorm(16)
        self.classifier = nn.Linear(16, CLASSES)

    def forward(self, clip):
        x = self.patches(clip).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        x = self.norm(self.encoder(x))
        return self.classifier(x.mean(dim=1) if self.token is None else x[:, 0])


class FramesFirst(nn.Module):
    """Takes `pixel_values` [B, T, 3, H, W] and gives an object with `logits`, from tokens of single frames."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.norm = nn.LayerNorm(16)
        self.classifier = nn.Linear(16, CLASSES)

    def forward(self, pixel_values):
        frames = self.patches(pixel_values.flatten(0, 1))
        tokens = self.norm(frames.flatten(2).transpose(1, 2).reshape(len(pixel_values), -1, 16))
        return types.SimpleNamespace(logits=self.classifier(tokens.mean(dim=1)))


class ChannelsLast(nn.Module):
    """Its map is [B, t, h, w, C] and it changes strides in place, as torchvision's Swin does."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv3d(3, 12, (2, 4, 4), stride=(2, 4, 4))
        self.blocks = nn.Sequential(nn.Sequential(nn.Linear(12, 12), nn.GELU()), nn.Sequential(nn.Linear(12, 12)))
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, clip):
        x = self.patches(clip).movedim(1, -1).contiguous()
        x = x.as_strided_(x.shape, x.stride())
        return self.head(self.norm(self.blocks(x)).movedim(-1, 1).mean(dim=(2, 3, 4)))


class NeedsValues(ConvNet):
    """Asks for a value on its way, which a tensor without values doesn't have."""

    def forward(self, clip):
        return super().forward(clip * (2.0 if clip.sum().item() > 1e9 else 1.0))


def frames_first(module, clip):
    return module(clip.transpose(1, 2)).logits


STAND_INS = {
    "conv": (ConvNet, None),
    "conv_head": (ConvHead, None),
    "class_token": (lambda: Encoder(class_token=True), None),
    "mean_token": (lambda: Encoder(class_token=False), None),
    "frames_first": (FramesFirst, frames_first),
    "channels_last": (ChannelsLast, None),
    "needs_values": (NeedsValues, None),
}
"""Name -> (what builds it, how it is called); all take clips of `CLIP_SHAPE`."""


def torchvision_video():
    """torchvision's video models; skips where it isn't installed."""
    try:
        return pytest.importorskip("torchvision.models.video", reason="needs torchvision")
    except RuntimeError:  # a build for another torch lacks operators that video models don't want
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", "(Tensor a, Tensor b, float c) -> Tensor")
        return importlib.import_module("torchvision.models.video")


def transformers():
    """The library of that name; skips where it isn't installed."""
    return pytest.importorskip("transformers", reason="needs transformers")


def small_transformers():
    """Names of the library's video classifiers -> (module, clip shape), with random weights, small."""
    library = transformers()
    common = {"image_size": 32, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    common |= {"intermediate_size": 48, "num_labels": CLASSES}
    configs = {
        "Timesformer": library.TimesformerConfig(num_frames=2, patch_size=16, **common),
        "Vivit": library.VivitConfig(num_frames=4, tubelet_size=[2, 16, 16], **common),
        "VideoMAE": library.VideoMAEConfig(num_frames=4, patch_size=16, tubelet_size=2, **common),
    }
    built = {name: getattr(library, f"{name}ForVideoClassification")(config) for name, config in configs.items()}
    return {name: (module, (3, configs[name].num_frames, 32, 32)) for name, module in built.items()}
