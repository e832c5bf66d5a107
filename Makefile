# make test   makes a virtual environment in .venv, installs the locked packages, runs the tests
# make clean  removes the environment

PYTHON ?= python3.11

.PHONY: test clean

.venv/installed: requirements/lock-3.11.txt setup.py
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed and $(PYTHON) was not found; name another with: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is needed. Received: $$($(PYTHON) --version)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "The module venv is missing; on Debian: apt install python3.11-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet -r requirements/lock-3.11.txt
	.venv/bin/pip install --quiet --no-deps -e .
	touch $@

test: .venv/installed
	.venv/bin/python -m pytest tests

clean:
	rm -rf .venv
