"""Kernels of our own: one file each, beside its plain PyTorch form, which it must equal forward and backward."""
