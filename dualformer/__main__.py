# PYTHON_ARGCOMPLETE_OK
"""`python -m dualformer COMMAND ...`, the same as `dualformer COMMAND ...`."""

from dualformer.cli import program

if __name__ == "__main__":
    program()
