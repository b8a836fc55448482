"""Where callables run: in this process, in a bounded pool of local ones, or on a Slurm cluster, all through submitit.

Knows neither models nor grids: a job is the name of an importable function and its text arguments.
"""
