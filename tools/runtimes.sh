#!/usr/bin/env bash
# Makes the virtual environment .venv-runtimes, in which exported models run: without TensorFlow.
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python
[ -x "$python" ] || { echo "tools/runtimes.sh: .venv is missing; make test makes it" >&2; exit 1; }
numpy=$("$python" -c 'import numpy; print(numpy.__version__)')
key="$(cat requirements/runtimes.txt | cksum) $numpy $("$python" --version)"
if [ "$(cat .venv-runtimes/installed 2>/dev/null)" = "$key" ]; then exit 0; fi
echo "Installing into .venv-runtimes; this takes a minute"
rm -rf .venv-runtimes
"$python" -m venv .venv-runtimes
.venv-runtimes/bin/python -m pip install --quiet --disable-pip-version-check "numpy==$numpy" -r requirements/runtimes.txt
echo "$key" > .venv-runtimes/installed
