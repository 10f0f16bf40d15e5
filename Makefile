# Two commands for newcomers: `make demo` and `make test`. Each sets itself up and can be repeated.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
READY := $(VENV)/.ready
# Spinning OpenMP threads starve each other where processes run side by side.
export OMP_WAIT_POLICY := PASSIVE
OUT ?= out/demo
JOBS ?= 2
COMPATIBLE := tests/models $(addprefix tests/training/test_,trainer.py accelerate.py peft.py)

.PHONY: help demo quick test native lint types unit slow data bench peers compatibility long-stream seeds tune ablate tune-levels screenshots teach continual clean

help:  ## What there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

$(READY): pyproject.toml constraints/cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "nestlearn needs Python 3.11 or newer: make PYTHON=python3.11 ..." >&2; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "could not make a virtual environment: install python3-venv" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/cpu.txt -e '.[dev]'
	@touch $@

data: $(READY)  ## Get the help pages in five languages (Debian packages, or NESTLEARN_DATA)
	@if [ -z "$$NESTLEARN_DATA" ] && command -v apt-get >/dev/null && \
	    ! apt-cache show libreoffice-help-en-us >/dev/null 2>&1; then \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -qq; elif sudo -n true 2>/dev/null; then sudo apt-get update -qq; fi; \
	fi
	@if [ -z "$$NESTLEARN_DATA" ] && ! command -v apt-get >/dev/null; then \
	  $(BIN)/python -m pip install --quiet -c constraints/cpu.txt -e '.[hub]'; \
	fi
	@$(BIN)/python -m nestlearn.streams

demo: native data  ## Three models learn English, French, German; who still knows English? (under 10 minutes)
	$(BIN)/nestlearn demo --resume --out $(OUT)

quick: native data  ## The same with tiny models, about a minute
	$(BIN)/nestlearn demo --quick --resume --out out/quick

test: lint types unit slow  ## Lint, types and tests

lint: $(READY)  ## Style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## Static types
	$(BIN)/mypy

native: $(READY)  ## Compile the self-modifying memories for this processor (half a minute, g++)
	-@$(BIN)/nestlearn native

unit: native  ## Tests, two processes of one thread each
	-@$(MAKE) --no-print-directory data
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) -m "not slow"

slow: native  ## Tests of more than ten seconds each: long sequences against the sequential equations
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) -m slow

bench: native  ## Tokens per CPU-second of training and decoding
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.speed --result results/speed.json

$(PEERS)/.ready: $(READY) benchmarks/peers.txt
	@test -x $(PEERS)/bin/pip || $(BIN)/python -m venv $(PEERS)
	@# What the project has, this finds too; pip adds only what is listed, and never a second PyTorch.
	@there=$$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  here=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  echo "import site; site.addsitedir('$$here')" > "$$there/project.pth"
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/peers.txt
	@touch $@

peers: native $(PEERS)/.ready  ## Speed, memory and decoding beside other packages, installed into .venv-peers (an hour)
	OMP_NUM_THREADS=1 $(PEERS)/bin/python -m benchmarks.peers --result results/peers.json

# What the project has, a layered environment finds too; pip adds only what is listed, in other versions.
.venv-%/.ready: constraints/transformers-%.txt $(READY)
	@test -x .venv-$*/bin/pip || $(BIN)/python -m venv .venv-$*
	@there=$$(.venv-$*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  here=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  echo "import site; site.addsitedir('$$here')" > "$$there/project.pth"
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --ignore-installed -r $<
	@touch $@

compatibility: .venv-oldest/.ready .venv-newest/.ready native  ## The oldest and the newest transformers: models, Trainer, accelerate, PEFT (15 minutes)
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n $(JOBS) -m "not slow" $(COMPATIBLE)
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n $(JOBS) -m "not slow" $(COMPATIBLE)

long-stream: native  ## A million tokens with gates at their ends: do memories stay bounded? (a quarter of an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.long_stream

seeds: native data  ## The demo with three seeds, into results/languages.json (half an hour)
	$(BIN)/python -m recipes.languages
	$(BIN)/python -m recipes.readme

tune: native data  ## The grid behind the demo's learning rates and strengths, into results/tune_languages.json
	$(BIN)/python -m recipes.tune_languages

ablate: native data  ## What each part of the levels does, into results/ablate_languages.json (8 minutes)
	$(BIN)/python -m recipes.ablate_languages

continual: data  ## The continual-learning benchmark: what results/continual lacks is done (hours), then docs/benchmark.md
	$(BIN)/nestlearn bench continual

tune-levels: native data  ## Search levels, then compare them with the defaults on the whole stream (half an hour)
	$(BIN)/python -m recipes.tune_levels
	$(BIN)/python -m recipes.figures

screenshots: demo  ## Pictures of docs/inspecting.md from the demo's run (needs chromium)
	$(BIN)/python -m recipes.screenshots

teach: data  ## A small model is taught two domains by every method, into results/teach.json (four hours)
	$(BIN)/python -m recipes.teach

clean:  ## Remove the environment and everything that was made
	rm -rf $(VENV) $(PEERS) .venv-oldest .venv-newest out dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
