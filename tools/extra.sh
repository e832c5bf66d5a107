#!/usr/bin/env bash
# tools/extra.sh NAME makes the virtual environment .venv-NAME of requirements/NAME.txt, without
# TensorFlow: runtimes for exported models, ray for batches, backends for PyTorch and JAX.
set -eu
cd "$(dirname "$0")/.."
name=$1
made=.venv-$name
python=.venv/bin/python
[ -x "$python" ] || { echo "tools/extra.sh: .venv is missing; make test makes it" >&2; exit 1; }
numpy=$("$python" -c 'import numpy; print(numpy.__version__)')
key="$(cat "requirements/$name.txt" | cksum) $numpy $("$python" --version)"
if [ "$(cat "$made/installed" 2>/dev/null)" = "$key" ]; then exit 0; fi
echo "Installing into $made; this takes a minute"
rm -rf "$made"
"$python" -m venv "$made"
"$made/bin/python" -m pip install --quiet --disable-pip-version-check "numpy==$numpy" -r "requirements/$name.txt"
echo "$key" > "$made/installed"
