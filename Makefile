# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= $(firstword $(shell command -v python3.11) python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# A folder with your own meshes; without it the demo makes procedural vehicles.
MESHES ?= data/meshes

.PHONY: demo test e2e monitor install lint lock images web clean help

help:
	@echo "make demo [MESHES=FOLDER]  set up, then meshes -> render -> train -> evaluate -> export -> Triton -> samples"
	@echo "make test                  set up, then all tests"
	@echo "make e2e                   set up, then the minutes-long end-to-end tests (real servers)"
	@echo "make monitor               set up, then Prometheus, Alertmanager and Pushgateway on this machine"
	@echo "make install               set up only"
	@echo "make lint                  ruff, and hadolint on the Dockerfiles"
	@echo "make web                   build the studio's page with npm (its result is committed; only to change it)"
	@echo "make images                build the container images with Docker (docs/cluster.md)"
	@echo "make lock                  resolve requirements.in into requirements.lock"

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed; install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "venv is missing: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pipelines.demo --meshes "$(MESHES)"

test: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

# Prometheus, Alertmanager and Pushgateway of this machine, until Ctrl-C.
monitor: $(INSTALLED)
	$(BIN)/python -m pipelines.cli monitor

e2e: $(INSTALLED)
	$(BIN)/python -m pytest -q -m e2e

lint: $(INSTALLED)
	$(BIN)/python -m ruff check . && $(BIN)/python -m ruff format --check . && $(BIN)/hadolint k8s/images/*.Dockerfile

# For a registry: make images REGISTRY=registry.example.com/; without CUDA: BUILD_ARGS="--build-arg CUDA=0"; with a bill of materials:
# BUILD_ARGS="--sbom=true --provenance=true".
IMAGES ?= pipeline serving trainer
REGISTRY ?=
BUILD_ARGS ?=
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

images:
	@command -v docker >/dev/null || { echo "make images: Docker is not installed; nothing was built" >&2; exit 2; }
	@docker info >/dev/null 2>&1 || \
		{ echo "make images: Docker's daemon does not answer (try: docker info); nothing was built" >&2; exit 2; }
	for name in $(IMAGES); do \
		docker build --file k8s/images/$$name.Dockerfile --tag $(REGISTRY)get3d/$$name:$(VERSION) \
			--build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) $(BUILD_ARGS) . || exit 1; \
	done

# pip itself stays unpinned: it belongs to the virtual environment, not to us.
lock: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --requirement requirements.in
	{ echo "# The whole resolved set, written by 'make lock' from requirements.in. Do not edit by hand."; \
	  $(BIN)/python -m pip freeze --all --exclude-editable --exclude pip | sed 's/+cpu$$//'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

web: $(INSTALLED)
	cd serving/studio/web && npm ci --no-audit --no-fund && npm run build
	$(BIN)/python -m serving.studio.bundle

clean:
	rm -rf $(VENV) data outputs
