# make demo    trains on generated shapes, evaluates on unseen ones, draws the detections
# make nuclei  trains on real cells that lie in the repository, evaluates, draws
# make quick   what to run after each change, 2 minutes: style, and the tests of less than a second
# make test    before a change lands, 9 to 14 minutes: style, types, all tests, two at a time
# make parity  prints the worst differences from the recordings of the original
# make lock    renews the lock file of PYTHON
# make clean   removes the environment and the demos' files
# The first four set up .venv by themselves; PYTHON=/path/to/python chooses the interpreter.

SEED ?= 0

.PHONY: demo nuclei quick test parity lock clean

demo:
	@tools/venv.sh
	.venv/bin/python samples/shapes/shapes.py demo --seed $(SEED)

nuclei:
	@tools/venv.sh
	.venv/bin/python samples/nucleus/nucleus.py demo --seed $(SEED)

PYTEST = .venv/bin/python -m pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder

quick:
	@tools/venv.sh test
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	$(PYTEST) -m "not heavy and not long" $(ARGS)

test:
	@tools/venv.sh test
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	$(PYTEST) $(ARGS)

# Exported models in their runtimes: ONNX Runtime, OpenVINO, LiteRT, in .venv-runtimes.
.PHONY: test-runtimes
test-runtimes:
	@tools/venv.sh test
	@tools/extra.sh runtimes
	MRCNN_RUNTIMES=1 $(PYTEST) tests/test_runtimes.py $(ARGS)

# Batches: into Parquet files, by actors of Ray, in .venv-ray without TensorFlow; then with a network.
.PHONY: test-ray
test-ray:
	@tools/venv.sh test
	@tools/extra.sh ray
	PYTHONPATH=. .venv-ray/bin/python -m pytest --noconftest tests/test_batch.py tests/test_ray.py $(ARGS)
	MRCNN_RAY=.venv-ray .venv/bin/python -m pytest tests/test_batch_models.py $(ARGS)

# PyTorch and JAX as Keras's backend, in .venv-backends without TensorFlow, against TensorFlow.
.PHONY: test-backends
test-backends:
	@tools/venv.sh test
	@tools/extra.sh backends
	MRCNN_BACKENDS=1 .venv/bin/python -m pytest tests/test_backends.py \
		tests/test_layers.py::test_layers_under_jax tests/test_training.py::test_trains_under_jax $(ARGS)

# The programs of others: supervision, SAHI, trackers in .venv-neighbours; FiftyOne and Label Studio in
# .venv-platforms; MLflow and TensorBoard in .venv-logging, which looks into .venv for TensorFlow.
.PHONY: test-neighbours
test-neighbours: .venv-neighbours/installed .venv-platforms/installed
	@tools/venv.sh test
	@$(MAKE) --no-print-directory .venv-logging/installed
	MRCNN_NEIGHBOURS=$(CURDIR)/.venv-neighbours/bin/python MRCNN_PLATFORMS=$(CURDIR)/.venv-platforms/bin/python \
		MRCNN_LOGGING=$(CURDIR)/.venv-logging/bin/python .venv/bin/python -m pytest tests/test_neighbours.py $(ARGS)

.venv-neighbours/installed .venv-platforms/installed: .venv-%/installed: requirements/%.txt
	$(or $(PYTHON),python3) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

.venv-logging/installed: requirements/logging.txt
	.venv/bin/python -m venv .venv-logging
	echo $(CURDIR)/.venv/lib/python3.*/site-packages > $$(echo .venv-logging/lib/python3.*/site-packages)/main.pth
	.venv-logging/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

parity:
	@tools/venv.sh test
	.venv/bin/python tests/parity.py $(ARGS)

lock:
	tools/lock.sh $(or $(PYTHON),python3.11)

clean:
	rm -rf .venv demo nuclei build *.egg-info

# make docs    builds the documentation into site/, strictly, in an environment of its own
.PHONY: docs
docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --strict --quiet
	@echo "site/index.html"

.venv-docs/installed: requirements/docs.txt
	$(or $(PYTHON),python3) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/docs.txt
	touch $@
