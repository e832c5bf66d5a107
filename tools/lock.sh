#!/usr/bin/env bash
# Writes requirements/lock-X.Y.txt for an interpreter: tools/lock.sh python3.11
# The newest packages that fit requirements.txt and the pins below, with all that they depend on.
set -eu
cd "$(dirname "$0")/.."
python=$1
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder"
# imgaug's ElasticTransformation fails with OpenCV from 4.14; OpenCV 4.11 has wheels for numpy 1.26 and 2.
pins='opencv-python==4.11.0.86 opencv-python-headless==4.11.0.86'
[ "$version" = 3.13 ] || pins="$pins numpy==1.26.4"
# shellcheck disable=SC2086
"$folder/bin/pip" install --quiet $(sed 's/^tensorflow>/tensorflow-cpu>/' requirements.txt) $pins 'setuptools>=77'
{ echo "# Made by tools/lock.sh python$version"; "$folder/bin/pip" freeze --all --exclude pip; } | sed 's/^tensorflow_cpu==/tensorflow-cpu==/' > "requirements/lock-$version.txt"
