"""Sweeps: a grid of configurations in, one result file per run out."""
