"""Commands of the library itself, one module each: `add_arguments(parser)` and `run(options)`, see `dualformer.cli`."""
