# Slipway. `make demo` shows it, `make test` proves it, `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
FUZZED := tests/unit/fuzz tests/unit/merger/test_hostile_checkpoints.py
PYTEST := $(BIN)/python -m pytest
export HF_HUB_OFFLINE := 1
export DO_NOT_TRACK := 1
export NO_MKDOCS_2_WARNING := 1
# A thread that waits for its siblings must not keep them from the core: two busy processes on two cores
# would take ten times as long as one, not twice.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help setup lint check schemas up down demo demo-attached test test-full soak soak-tests world fuzz mutants test-unit test-python rotate test-real test-examples test-client compat chaos bench clean \
	locks licences sbom audit audit-tools wheels docs pictures images demo-containers

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: ## make both environments (.venv and .venv-engine); at once when they are up to date
	@deploy/setup/environment.sh main
	@deploy/setup/environment.sh engine

demo: setup ## train, rehearse, release, canary, then a drill and an automatic rollback
	@$(BIN)/python -m examples.smollm2.demo

demo-attached: setup ## release into two toy servers that exist: attach, hook, shadow, canary, slowness, rollback
	@$(BIN)/python -m examples.attached.demo $(ARGS)

test: export SLIPWAY_TEST_SOAK ?= 0.25
test: setup ## every check and every test, four at a time
	$(PYTEST) @tests/everything.args $(ARGS)

test-full: setup ## all of `make test`, and the tests that it leaves out for their minutes
	$(PYTEST) @tests/everything.args -m "full or not full"

soak: setup ## two of every service, killed at random 1,000 times through releases of 5 models: make soak ARGS="--minutes 30 --seed 7 --state DIR"
	$(BIN)/python -m testbed.soak $(ARGS)

world: setup ## stories of all services in virtual time, a hundred new ones, or: make world SEEDS=7 ARGS=--show
	$(BIN)/python -m tests.world $(SEEDS) $(ARGS)

soak-tests: SLIPWAY_TEST_SEED ?= $(shell echo $$RANDOM)
soak-tests: export SLIPWAY_TEST_SEED := $(SLIPWAY_TEST_SEED)
soak-tests: setup ## unit tests that draw at random, with fifty times the draws; tests that kill, ten times over: hours
	@echo "the same draws again: make soak-tests SLIPWAY_TEST_SEED=$$SLIPWAY_TEST_SEED"
	SLIPWAY_TEST_SOAK=50 $(PYTEST) -n2 --timeout 7200 --hypothesis-seed=$$SLIPWAY_TEST_SEED tests/unit tests/integration/test_gateway_callers.py
	SLIPWAY_TEST_SOAK=2 $(PYTEST) tests/integration/test_nats_cluster.py
	for round in $$(seq 10); do SLIPWAY_TEST_SEED=$$((SLIPWAY_TEST_SEED + round)) $(PYTEST) -n2 tests/chaos tests/integration -k "kill or chaos or _hang" || exit 1; done

fuzz: MINUTES ?= 20
fuzz: setup ## hostile inputs for so many minutes an entry: make fuzz MINUTES=20 (SLIPWAY_TEST_FUZZ_START=N begins at input N)
	SLIPWAY_TEST_FUZZ_MINUTES=$(MINUTES) $(PYTEST) -n2 --timeout 36000 -rP $(FUZZED)

mutants: setup ## change decision code and see that a test fails: those of a list, and 100 at random: make mutants ARGS="--number 20 --seed 7 --no-named FILE"
	$(BIN)/python -m testbed.mutants $(ARGS)

test-unit: setup ## the tests that start no stack: unit, contract, architecture
	$(PYTEST) -n2 tests/unit tests/contract tests/architecture

PARTS = $(filter-out __%,$(notdir $(wildcard services/* clients/*))) contracts decisions deploy shared
check: NAME = $(subst -,_,$(SERVICE))
check: FOLDER = $(wildcard $(if $(NAME),services/$(NAME) clients/$(NAME)) $(filter contracts decisions deploy shared,$(NAME)))
check: setup ## style, types, import rules and unit tests of one service or package: make check SERVICE=registry
	$(if $(FOLDER),,$(error SERVICE is "$(SERVICE)"; it has to be one of: $(sort $(PARTS:%.py=))))
	$(BIN)/ruff check $(FOLDER) tests/unit/$(NAME)
	$(BIN)/ruff format --check $(FOLDER) tests/unit/$(NAME)
	$(BIN)/mypy $(FOLDER) tests/unit/$(NAME)
	$(BIN)/lint-imports
	SLIPWAY_TEST_SOAK=0.2 $(PYTEST) -n2 tests/unit/$(NAME)

test-python: PYTHON ?= python3.13
test-python: ## the unit tests on another Python, python3.13 unless named: make test-python PYTHON=python3.12
	@deploy/setup/environment.sh main $(PYTHON)
	.venv-$(notdir $(PYTHON))/bin/python -m pytest tests/unit

rotate: setup ## run the job of tests/rotation.tsv that passed longest ago, and write into its row that it passed: make rotate JOB="examples"
	$(BIN)/python -m tests.kit.run.rotation --write $(if $(JOB),--job "$(JOB)")

test-real: setup ## the tests on real models, Triton and vLLM
	$(PYTEST) -m real

test-examples: setup ## the examples of training frameworks (TRL, Lightning, PyTorch), in .venv-examples, on a real bus and store
	@deploy/setup/environment.sh examples
	$(PYTEST) tests/examples

test-client: setup ## slipway-client on Python 3.9 with transformers 4.44, and on the newest with DeepSpeed, in environments of their own (7 GB); needs g++
	@deploy/setup/environment.sh client-oldest
	@deploy/setup/environment.sh client-newest
	$(PYTEST) tests/client -v

compat: setup ## other clients of the OpenAI API, and vLLM's own published tests, against a real gateway; needs npm
	$(BIN)/python -m tests.compat.run
	$(BIN)/python -m tests.compat.vllm_published

chaos: setup ## the tests that kill things (SLIPWAY_TEST_SEED=N draws those of the soak from N)
	$(PYTEST) tests/chaos

lint: setup ## style, types, import rules, generated files, the documentation site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy contracts decisions shared services clients deploy testbed tests benchmarks examples
	$(BIN)/lint-imports
	$(BIN)/vermin --quiet --violations --eval-annotations --no-tips --target=3.9- contracts clients/training
	$(BIN)/python -m deploy.generate --check
	$(BIN)/python -m deploy.setup.locks --check
	$(BIN)/python -m testbed.lint
	$(BIN)/python -m mkdocs build --strict --site-dir .make/docs

docs: setup ## build the documentation site into dist/docs
	$(BIN)/python -m mkdocs build --strict
	@echo "Open dist/docs/index.html. With the search, on http://127.0.0.1:8090:"
	@echo "  $(BIN)/python -m http.server 8090 --bind 127.0.0.1 --directory dist/docs"

pictures: setup ## make docs/pictures again: the console and the terminal on a stack with the toy engine; needs chromium
	$(BIN)/python -m testbed.pictures

schemas: setup ## write the JSON Schemas, the AsyncAPI document and the NATS permissions again
	$(BIN)/python -m deploy.generate

locks: ## resolve the requirements into locks again; versions stay but for those of UPGRADE="name …"
	$(BIN)/python -m deploy.setup.locks $(if $(UPGRADE),--upgrade $(UPGRADE))

audit-tools:
	@deploy/setup/environment.sh audit

# Accepted although their licence is another, or their metadata names none. LGPL, used unchanged and replaceable: pycountry,
# pygal. MIT or Apache-2.0 by the file in their wheel: axe-playwright-python, oss-harmony. Proprietary, free of charge, installed from the index and
# never redistributed here: intel-cmplr-lib-ur, intel-openmp.
PERMISSIVE := Apache;BSD;MIT;ISC;PSF;Python Software Foundation;Mozilla;MPL-2.0;CC0;Unlicense;ZPL
ACCEPTED := slipway pycountry pygal axe-playwright-python oss-harmony intel-cmplr-lib-ur intel-openmp
licences: setup audit-tools ## list the licences of what Slipway runs on; fails on one that was not looked at
	@deploy/setup/environment.sh wandb
	@for folder in .venv .venv-engine .venv-wandb; do .venv-audit/bin/pip-licenses --python=$$folder/bin/python \
		--partial-match --allow-only "$(PERMISSIVE)" --ignore-packages $(ACCEPTED) || exit 1; done

sbom: setup audit-tools ## write the bills of materials (CycloneDX) of both environments into dist/sbom
	@deploy/setup/sbom.sh

# Findings that stay, each with its reason in a comment here: UNREACHABLE := GHSA-…
UNREACHABLE :=
LOCKS := $(filter-out %-overrides.txt %-cpu.txt %-oldest.txt,$(wildcard requirements/*.txt deploy/docker/requirements/*.txt))
audit: setup audit-tools ## ask a vulnerability service about all locked packages
	@for lock in $(LOCKS); do .venv-audit/bin/pip-audit --requirement $$lock --disable-pip --no-deps --progress-spinner off \
		--vulnerability-service osv $(UNREACHABLE:%=--ignore-vuln %) || status=1; done; exit $${status:-0}

wheels: setup ## build the wheels of slipway and slipway-client into dist
	@deploy/setup/wheels.sh

images: ## build the images of compose.yaml with podman, also where none can be pulled; prints sizes and times
	@deploy/docker/images.sh

demo-containers: setup ## build the images and run compose.yaml with podman, from a release to its rollback; needs root
	@$(BIN)/python -m testbed.containers $(ARGS)

up: setup ## start the embedded stack; Ctrl-C stops it
	$(BIN)/slipway up

down: setup ## stop the embedded stack
	$(BIN)/slipway down

bench: setup ## the measurements behind docs/benchmarks.md
	@for file in benchmarks/bench_*.py; do echo "== $$file"; PYTHONPATH=. $(BIN)/python $$file || exit 1; done

clean: ## remove the stack's state and caches; the environments stay
	rm -rf .state .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
