#!/usr/bin/env bash
# Everything worth doing with minutes on a GPU, in one call:
#
#   tests/gpu/run.sh --minutes 10                 # on the GPU
#   tests/gpu/run.sh --minutes 10 --device cpu --tiny      # the same parts on small sizes, to try the script
#
# Parts, in this order; each has its own time limit, and a part that fails or runs out of time does not stop the others:
#   environment   what is installed and what is missing, GPU, driver
#   methods       outputs and gradients of every method, against the CPU, in float32 and bf16
#   training      whole small trainings: against the CPU, twice the same, SIGTERM and resumption, bf16
#   processes     two processes against one (skipped with one GPU)
#   bench         images/s, share of the copy and matmul ceilings and peak memory of each stage
#   reference     a run of the profile "gpu", its steps cut down to what fits into the minutes that are left
#
# Output: a few small files in one folder ($OUT, or --out FOLDER; default results/gpu/out): summary.json, run.log and one
# JSON per part. Call it again to continue: parts that passed with the same code on the same device are not repeated, and the
# reference run goes on from its checkpoints. What it needs for that is in results/gpu (or --work FOLDER), which is large and
# stays on the machine. --fresh starts again; --parts "bench reference" chooses.
#
# The environment. Python 3.11 or newer; the script takes .venv/bin/python, else the python3 on the path that has torch
# (PYTHON=… overrules).
#   With a network:    make env, or pip install --require-hashes -r .ci/install.lock -r requirements.lock &&
#                      pip install --no-deps --no-build-isolation -e .
#   Without one:       a machine with its own PyTorch (2.11 or newer, with torchvision) lacks a few pure or small packages.
#                      `tests/gpu/run.sh --parts environment` lists them. Fetch them elsewhere for that machine's Python,
#                        python -m pip download --no-deps --only-binary=:all: --python-version 3.12 \
#                          --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d .wheels NAME…
#                      and carry the folder .wheels along: the script unpacks it into --work and adds it to the path.
#                      The project itself needs no installation. papermill and Snakemake are not needed: the reference run
#                      executes the notebooks' cells with leuk_lib.runs.script.
# Not run on a GPU yet. Tried with --device cpu.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
echo "tests/gpu/run.sh: $(date -u +%FT%TZ), $(uname -m), $(nproc) cores; one moment"
has_torch() { "$1" -c 'import importlib.util as u, sys; sys.exit(not (sys.version_info >= (3, 11) and u.find_spec("torch")))' 2>/dev/null; }
for python in "${PYTHON:-}" "$root/.venv/bin/python" python3 python; do
  if [ -n "$python" ] && has_torch "$python"; then exec "$python" "$here/parts.py" "$@"; fi
done
echo "no Python 3.11 or newer with torch found; set PYTHON, or see the head of this script" >&2
exit 2
