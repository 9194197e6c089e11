# Every target is run from the top folder. `make` alone lists them.
# Works with GNU Make 3.81 and later, so with the one that macOS ships.

SHELL := /bin/bash
BIN := .venv/bin
READY := .venv/.ready

# The Python to make .venv with; the first of these that is 3.11 or newer and can make an environment.
PYTHON ?=
PYTHONS := $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python

# The tools that `make protos` uses. Stubs refuse a grpcio older than the tools that made them,
# so these are the oldest that pyproject.toml allows. A protobuf runtime reads code that was made for its own
# or the previous major version.
PROTO_TOOLS := grpcio-tools==1.80.0 mypy-protobuf==5.1.0 protobuf==6.33.6

# In a container the reader is often root, whom Jupyter refuses without a word from us.
ALLOW_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

PIP_QUIETLY := --disable-pip-version-check --no-input --progress-bar off

# Sets $$python or stops with one line.
define find_python
for python in $(PYTHONS); do \
  "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && break; \
  python=; \
done; \
if [ -z "$$python" ]; then \
  echo "paylab needs Python 3.11 or newer with its venv module, and none was found; name one with: make PYTHON=/path/to/python3" >&2; \
  exit 1; \
fi; \
version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endef

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: lab
lab: $(READY) ## Open JupyterLab on the welcome chapter (LAB_ARGS="--no-browser --port 8890")
	@echo "Opening JupyterLab on notebooks/00_welcome.ipynb; stop it with Ctrl-C."
	@$(BIN)/jupyter lab notebooks/00_welcome.ipynb $(ALLOW_ROOT) $(LAB_ARGS)

.PHONY: test
test: $(READY) ## Run every test, then every notebook
	@echo "Running the tests on every core ..."
	@$(BIN)/python -m pytest -n auto --dist worksteal --ignore=tests/browser tests
	@echo "Running the browser tests, which want the machine for themselves ..."
	@$(BIN)/python -m pytest tests/browser
	@echo "Running the notebooks ..."
	@$(BIN)/python -m pytest -n auto --dist worksteal --nbmake --nbmake-timeout=60 notebooks

.PHONY: lint
lint: $(READY) ## Check format, rules, types, the three rooms and that notebooks are stored without outputs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	find notebooks -name '*.ipynb' -not -path '*/.ipynb_checkpoints/*' -exec $(BIN)/nbstripout --verify {} +

.PHONY: book
book: $(READY) ## Execute the chapters into build/book, readable offline
	@$(BIN)/python notebooks/book.py

.PHONY: pictures
pictures: $(READY) ## Draw the README's pictures anew into notebooks/images
	@$(BIN)/python notebooks/pictures.py

.PHONY: screenshots
screenshots: $(READY) ## Photograph the panels in a browser, light and dark, into notebooks/images
	@PAYLAB_SCREENSHOTS=notebooks/images $(BIN)/python -m pytest -q tests/browser/test_panels.py tests/browser/test_load_panels.py
	@echo "Wrote the pictures of the panels into notebooks/images."

.PHONY: measure
measure: $(READY) ## Measure the panels in a browser: cost, frames, heap, clicks (PAYLAB_LOAD_S=360 PAYLAB_CLICKS=20)
	@PAYLAB_CHAPTERS="$$(ls notebooks | grep -o '^0[0-9]')" $(BIN)/python -m pytest -s -q tests/browser/test_exported.py \
	  tests/browser/measure_panels.py

.PHONY: protos
protos: .venv-protos/.ready ## Write paylab/pb anew from protos
	@PATH="$(CURDIR)/.venv-protos/bin:$$PATH" .venv-protos/bin/python protos/generate.py
	@echo "Wrote paylab/pb."

.PHONY: lock
lock: ## Write requirements.lock anew from pyproject.toml (LOCK_ARGS=--upgrade takes newer versions)
	@$(find_python); \
	echo "Making .venv-lock with Python $$version ..."; \
	"$$python" -m venv --clear .venv-lock && .venv-lock/bin/python -m pip install -q $(PIP_QUIETLY) 'uv>=0.9'
	@echo "Choosing versions ..."
	@.venv-lock/bin/uv pip compile pyproject.toml --quiet --no-config --universal --python-version 3.11 --all-extras \
	  --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make lock" $(LOCK_ARGS) --output-file requirements.lock
	@rm -rf .venv-lock
	@echo "Wrote requirements.lock: $$(grep -c '==' requirements.lock) packages."

.PHONY: clean
clean: ## Remove environments, caches and what was built
	rm -rf .venv .venv-protos .venv-lock build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	@if .venv/bin/python -m pip --version >/dev/null 2>&1; then \
	  echo "Renewing .venv, as requirements.lock or pyproject.toml has changed ..."; \
	else \
	  $(find_python); \
	  echo "Making .venv with Python $$version ..."; \
	  "$$python" -m venv --clear .venv || exit 1; \
	fi; \
	count=$$(grep -c '==' requirements.lock); \
	tty=0; if [ -t 1 ]; then tty=1; fi; \
	echo "Installing $$count packages from requirements.lock (a minute or two) ..."; \
	set -o pipefail; \
	PYTHONUNBUFFERED=1 .venv/bin/python -m pip install $(PIP_QUIETLY) --no-compile --require-hashes -r requirements.lock \
	| awk -v count="$$count" -v tty="$$tty" ' \
	    function say(text) { if (tty) printf "\r\033[K  %s", text; else print "  " text; fflush() } \
	    /^(Collecting|Requirement already satisfied:|Ignoring) / { \
	      n++; name = $$0; sub(/^(Collecting|Requirement already satisfied:|Ignoring) /, "", name); sub(/[=: ].*/, "", name); \
	      if (tty || n % 40 == 0) say(n " of " count ": " name) } \
	    /^Installing collected packages/ { say("all downloaded, unpacking ...") } \
	    END { if (tty) printf "\r\033[K" }'
	@echo "Installing paylab itself ..."
	@$(BIN)/python -m pip install -q $(PIP_QUIETLY) --no-deps --no-build-isolation -e .
	@touch $@
	@echo "Ready."

.venv-protos/.ready: Makefile
	@$(find_python); \
	echo "Making .venv-protos with Python $$version: $(PROTO_TOOLS) ..."; \
	"$$python" -m venv --clear .venv-protos && .venv-protos/bin/python -m pip install -q $(PIP_QUIETLY) $(PROTO_TOOLS)
	@touch $@
