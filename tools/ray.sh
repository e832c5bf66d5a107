#!/usr/bin/env bash
# Makes the virtual environment .venv-ray, in which batches run by actors of Ray: without TensorFlow.
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python
[ -x "$python" ] || { echo "tools/ray.sh: .venv is missing; make test makes it" >&2; exit 1; }
numpy=$("$python" -c 'import numpy; print(numpy.__version__)')
key="$(cat requirements/ray.txt | cksum) $numpy $("$python" --version)"
if [ "$(cat .venv-ray/installed 2>/dev/null)" = "$key" ]; then exit 0; fi
echo "Installing into .venv-ray; this takes a minute"
rm -rf .venv-ray
"$python" -m venv .venv-ray
.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check "numpy==$numpy" -r requirements/ray.txt
echo "$key" > .venv-ray/installed
