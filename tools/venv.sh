#!/usr/bin/env bash
# Makes the virtual environment .venv with the locked packages and this project; says what is missing.
#   tools/venv.sh         what the demo needs
#   tools/venv.sh test    what the tests need as well
# PYTHON=/path/to/python chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."

fail() { echo "tools/venv.sh: $*" >&2; exit 1; }

python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3.11 python3.12 python3.13 python3; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
      python=$candidate
      break
    fi
  done
  [ -n "$python" ] || fail "Python 3.11, 3.12 or 3.13 is needed and none was found; name one with PYTHON=/path/to/python make ..."
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || fail "$python does not run; name another with PYTHON=/path/to/python make ..."
lock=requirements/lock-$version.txt
[ -f "$lock" ] || fail "Python 3.11, 3.12 or 3.13 is needed. Received: $python, which is $version"
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "$python lacks the module venv; on Debian and Ubuntu: apt install python$version-venv"

key="$version $(cat "$lock" requirements/test.txt | cksum) ${1:-}"
if [ "$(cat .venv/installed 2>/dev/null)" = "$key" ] || [ "$(cat .venv/installed 2>/dev/null)" = "${key}test" ]; then exit 0; fi
free=$(df -Pk . | awk 'NR == 2 { print $4 }')
[ "$free" -gt 3000000 ] || fail "3 GB of disk are needed for the packages. Free here: $((free / 1000)) MB"

# On a machine with an NVIDIA device the wheel of the same version that can use it.
tensorflow=tensorflow-cpu
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then tensorflow='tensorflow[and-cuda]'; fi
echo "Installing into .venv ($python, $tensorflow); this takes a minute or two"
"$python" -m venv .venv
sed "s/^tensorflow-cpu==/$tensorflow==/" "$lock" > .venv/lock.txt
# Compiled below by all cores: pip takes one, for 45 s of these packages.
pip() { .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile "$@"; }
pip --no-deps -r .venv/lock.txt
if [ "$tensorflow" != tensorflow-cpu ]; then
  pip -c .venv/lock.txt "$tensorflow"
fi
if [ "${1:-}" = test ]; then
  pip -r requirements/test.txt -c .venv/lock.txt
fi
# Built by the locked setuptools: without this, pip would fetch the newest one.
pip --no-deps --no-build-isolation --editable .
PYTHONWARNINGS=ignore .venv/bin/python -m compileall -qq -j 0 .venv/lib || true  # some are not Python 3
echo "$key" > .venv/installed
