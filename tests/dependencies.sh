#!/usr/bin/env bash
# Tests the project with both ends of what pyproject.toml allows: the newest release of every dependency, then each stated
# lower bound. It resolves, installs and runs a few tests of every part, in a folder that it removes. torch alone is that
# of requirements.lock at both ends: another may be gigabytes of CUDA libraries.
#
#     tests/dependencies.sh [newest] [lowest]     both, unless one is named
#     PYTHON=python3.12 tests/dependencies.sh     with another interpreter than python3
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A resolution=([newest]=highest [lowest]=lowest-direct)
ends=("$@")
[ $# -gt 0 ] || ends=(newest lowest)
for end in "${ends[@]}"; do
    [ -n "${resolution[$end]:-}" ] || { echo "tests/dependencies.sh: no end '$end' (newest, lowest)" >&2; exit 2; }
done

# One file and more for each library: attention (torch), weights (safetensors), reader (PyAV, decord), augmentation
# (kornia, numpy), a run (pydantic, torchmetrics), jobs (submitit), a grid's dry run (pyyaml), tables (pandas), statistics
# (scipy), pictures and report (matplotlib, jinja2), counting (fvcore, ptflops), the door (argcomplete, docstring_parser).
tests=(
    tests/dualformer/test_attention.py
    tests/dualformer/test_checkpoint_files.py
    tests/dualformer/data/test_reader.py
    tests/dualformer/data/test_augment.py
    tests/sweeps/test_run.py
    tests/slurm/test_executors.py
    tests/sweeps/launching/test_grid.py
    tests/analysis/test_collect.py
    tests/analysis/test_compare.py
    tests/analysis/test_drawing.py
    tests/dualformer/commands/test_models_and_macs.py
    tests/dualformer/commands/test_door.py
    tests/sweeps/test_fields.py
    # needs a machine that keeps up, and no other release than any other test
    --deselect tests/slurm/test_executors.py::test_a_time_limit_starts_the_task_again_and_counts
)

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
pip() { "$folder/$1/bin/python" -m pip --disable-pip-version-check "${@:2}"; }

"${PYTHON:-python3}" -m venv "$folder/tools"
pip tools install --quiet uv
uv="$folder/tools/bin/uv"
echo 'torch; python_version < "3"' >"$folder/without_torch" # which is there, and is to stay as it is

for end in "${ends[@]}"; do
    echo "== $end of every dependency"
    "${PYTHON:-python3}" -m venv "$folder/$end"
    pip "$end" install --quiet "$(grep '^torch==' requirements.lock)"
    "$uv" pip compile --quiet --resolution "${resolution[$end]}" --override "$folder/without_torch" \
        --python "$folder/$end/bin/python" --extra test --extra gpu --no-header --no-annotate \
        --output-file "$folder/$end.txt" pyproject.toml >/dev/null
    "$uv" pip install --quiet --python "$folder/$end/bin/python" --requirements "$folder/$end.txt"
    pip "$end" install --quiet --no-deps --no-build-isolation --editable .
    pip "$end" check
    "$folder/$end/bin/python" -m pytest -q -n 2 --dist loadfile "${tests[@]}" || {
        status=$?
        echo "with these releases:"
        cat "$folder/$end.txt"
        exit "$status"
    }
done
