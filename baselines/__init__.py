"""Published video transformers that DualFormer is compared with: one file each, the interface of `dualformer`."""
