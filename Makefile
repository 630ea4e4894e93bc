# Commands for developers and first users. `make demo` and `make test` need only Python and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test docs browser page faults scale-queue scale-select scale-selections scale-previews scale-planning ablation-truth images test-images test-deploy test-ray test-peers test-s3 test-install lint types fuzz gpu clean

demo: $(VENV)/.installed
	$(BIN)/python deploy/demo.py

# Three groups of tests, lint and types run in parallel, as most tests of the service wait for other processes. BESIDE, and
# the tests of kernels with LAST after them, have a lower priority, and their output comes last. Torch has one thread in
# each group. Triton's interpreter is on for all tests of kernels at once, which saves a process for each file. `make` and
# not its variable, by which `make -n test` would run the tests.
BESIDE := tests/scorer tests/pruner tests/page tests/service/test_ablations.py tests/service/test_scorers.py tests/service/test_prune.py
LAST := tests/faults $(wildcard tests/test_*.py)
test: $(VENV)/.installed-test browser
	@mkdir -p build; export OMP_NUM_THREADS=1; \
	nice -n 10 make lint types >build/checks.txt 2>&1 & checks=$$!; \
	nice -n 10 $(BIN)/python -m pytest $(BESIDE) >build/beside.txt 2>&1 & beside=$$!; \
	(TRITON_INTERPRET=1 nice -n 10 $(BIN)/python -m pytest tests/kernels; status=$$?; \
	nice -n 10 $(BIN)/python -m pytest $(LAST) || status=$$?; exit $$status) >build/kernels.txt 2>&1 & kernels=$$!; \
	trap 'kill $$checks $$beside $$kernels; exit 130' INT TERM; \
	$(BIN)/python -m pytest --ignore=tests/kernels $(BESIDE:%=--ignore=%) $(LAST:%=--ignore=%); status=$$?; \
	for job in $$kernels $$beside $$checks; do wait $$job || status=$$?; done; \
	cat build/kernels.txt build/beside.txt build/checks.txt; exit $$status

# Checks deploy/ with hadolint, Docker Compose, Helm and promtool, which is taken from Debian's `prometheus` if missing.
test-deploy: $(VENV)/.installed-deploy
	$(BIN)/python -m pytest tests/test_deploy.py

# The images of deploy/Dockerfile, by Docker's BuildKit or with DOCKER=podman; BUILD adds options of `docker build`. Podman
# keeps the health checks in Docker's format only.
DOCKER := docker
images:
	DOCKER_BUILDKIT=1 BUILDAH_FORMAT=docker $(DOCKER) build $(BUILD) --file deploy/Dockerfile --target api --tag winnow-api .
	DOCKER_BUILDKIT=1 BUILDAH_FORMAT=docker $(DOCKER) build $(BUILD) --file deploy/Dockerfile --target worker --tag winnow-worker .

# Brings deploy/compose.yaml up with these images, and runs a job on CPUs through a kill and a restart.
test-images: $(VENV)/.installed-deploy
	WINNOW_TEST_IMAGES=1 $(BIN)/python -m pytest tests/test_images.py

# A pool on a real Ray cluster of two nodes. Separate, because the package is large.
test-ray: $(VENV)/.installed-ray
	$(BIN)/python -m pytest tests/service/test_ray_pool.py

# Compares scores with lm-evaluation-harness, and reads manifests and exports with other tools: datasets, datatrove, DuckDB,
# pandas, Polars, and the Dolma toolkit, which has an environment of its own. A generated client calls the API.
test-peers: $(VENV)/.installed-peers $(VENV)/dolma/.installed
	$(BIN)/python -m pytest tests/scorer/test_harness.py tests/page/test_openers.py tests/service/test_export_peers.py tests/service/test_generated_client.py tests/pruner/test_export_*.py

# The service's tests on a workspace on S3; `make test` runs a part of them.
test-s3: $(VENV)/.installed-test
	WORKSPACE=s3 $(BIN)/python -m pytest tests/service --ignore tests/service/test_ray_pool.py

# Builds the source archive and the wheel, and installs the wheel with all that it asks for into a new environment, where
# the commands must run: some minutes, 2 GB.
test-install: $(VENV)/.installed-test
	WINNOW_TEST_LONG=1 $(BIN)/python -m pytest tests/test_install.py

# Half an hour: kills, full disks, clock changes and load at full size. Prints the measurements.
faults: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/faults --long --timeout 3600

# The queue with 200 and 200,000 shards, a minute: time and memory of each shard, and of the API. Fails on a missed target.
scale-queue: $(VENV)/.installed-test
	$(BIN)/python -m tests.scale

# Selections over score tables of 50 million documents, beside NumPy, Polars and DuckDB: some minutes, 3 GB of disk space.
# Fails if another is faster. With DOCUMENTS=1e9 Winnow alone: 45 GB.
DOCUMENTS := 5e7
scale-select: $(VENV)/.installed-peers
	$(BIN)/python -m tests.scale.select_tables $(DOCUMENTS) $(if $(filter 5e7,$(DOCUMENTS)),,--alone)

# One more selection of a job of 10^8 documents over HTTP, with two workers: half an hour, 30 GB of disk space. Fails if
# one takes over a minute, or three where all documents are ranked anew for it.
scale-selections: $(VENV)/.installed-test
	$(BIN)/python -m tests.scale.selections

# Previews of a job of 10^8 documents and the memory of the API, over HTTP: a minute, 5 GB of disk space. With
# DOCUMENTS=1e9 some minutes, and 45 GB.
scale-previews: DOCUMENTS := 1e8
scale-previews: $(VENV)/.installed-test
	$(BIN)/python -m tests.scale.previews $(DOCUMENTS)

# A plan of 10^6 files, and a listing of 10^6 keys of an S3 server that does nothing else: some minutes.
scale-planning: $(VENV)/.installed-test
	$(BIN)/python -m tests.scale.planning

# Proxies trained on twenty random halves of a corpus: at most two may win. Some minutes.
ablation-truth: $(VENV)/.installed-test
	WINNOW_TEST_LONG=1 $(BIN)/python -m pytest -s tests/service/test_ablation_truth.py

# A Chromium for the tests of the page: installed with apt-get if possible, else it prints what to do.
browser:
	bash tests/page/browser.sh

# The long tests of the page: a line of 1 MB, a million documents, dark mode.
page: $(VENV)/.installed-test browser
	WINNOW_TEST_LONG=1 $(BIN)/python -m pytest tests/page

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/audit.py

types: $(VENV)/.installed-test
	$(BIN)/mypy

# The live API and the parsers with thousands of random cases; `make test` runs fewer. Prints its seed.
fuzz: $(VENV)/.installed-test
	WINNOW_FUZZ_EXAMPLES=1000 $(BIN)/python -m pytest -s --timeout 7200 --hypothesis-profile default tests/service/test_fuzz.py tests/pruner/test_sandbox.py tests/pruner/test_export_sandbox.py

# The manual and the developers' pages as a site, build/docs/docs/index.html; warnings are errors. Python 3.11 or newer.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -c docs . build/docs

# Needs a CUDA device; uses the installed packages.
gpu:
	bash tests/gpu/run.sh

clean:
	rm -rf $(VENV) .demo build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Winnow needs Python 3.10 or newer; this is " + sys.version.split()[0] + ": call make PYTHON=python3.11, say") if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

$(VENV)/.installed-ray: $(VENV)/.installed-test
	$(PIP) install --quiet --constraint constraints.txt --editable '.[ray,test]'
	touch $@

$(VENV)/.installed-peers: $(VENV)/.installed-test
	$(PIP) install --quiet --constraint constraints.txt --editable '.[peers,test]'
	touch $@

$(VENV)/dolma/.installed: tests/dolma.txt | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/dolma
	$(VENV)/dolma/bin/python -m pip --disable-pip-version-check install --quiet --requirement tests/dolma.txt
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed-test
	$(PIP) install --quiet --constraint constraints.txt --editable '.[docs,test]'
	touch $@

$(VENV)/.installed-deploy: $(VENV)/.installed-test
	$(PIP) install --quiet --constraint constraints.txt --editable '.[deploy,test]'
	command -v promtool >/dev/null || bash deploy/monitoring/promtool.sh $(BIN)
	touch $@
