"""Data sets of small videos, made as training makes them."""

from dualformer.data.dataset import DataConfig, VideoDataset

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # clips hold levels, so that numbers can be read back


def make(root, split="train", *, num_frames=4, crop_size=(48, 64), views=None, seed=0, **config):
    config = DataConfig.from_dict({"root": str(root), **PLAIN, **config})
    return VideoDataset(config, split, num_frames=num_frames, crop_size=crop_size, views=views, seed=seed)
