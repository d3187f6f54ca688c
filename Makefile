# The verbs of this project. `make` alone shows them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PINS := --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo demo-text install test test-slow test-realdata lint format bench docs schema leaderboard lock wheel clean

help: ## Show the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| (echo "clamr-bench needs Python 3.11 to 3.13; say which with PYTHON=..." && exit 1)
	$(PYTHON) -m venv $(VENV)

# Two levels of one environment: the light core for the demo, everything for development.
$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install $(PINS) --editable .
	@touch $@

$(VENV)/.all: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install $(PINS) torch
	$(PIP) install $(PINS) --editable '.[all]'
	@touch $@ $(VENV)/.core

demo-text: $(VENV)/.core ## Install the light core alone (no torch) and run the text baselines
	$(BIN)/clamr-bench run --task multivent/sample --output demo/results \
		--retriever random --retriever bm25-asr --retriever bm25-ocr \
		--retriever bm25-description --retriever bm25-text
	$(BIN)/clamr-bench leaderboard --output demo/results

demo: $(VENV)/.all ## Install everything and run the tiny models of every family against BM25
	$(BIN)/clamr-bench run --task multivent/sample --output demo/results \
		--retriever random --retriever bm25-asr --retriever bm25-ocr \
		--retriever bm25-description --retriever bm25-text --retriever clip/tiny --retriever colqwen/tiny \
		--retriever clamr-pooled/tiny --retriever clamr/tiny
	$(BIN)/clamr-bench run --task multivent/sample --output demo/results --retriever fused \
		--set fused.method=mean \
		--set 'fused.parts=[clip/tiny@video, clip/tiny@asr, clip/tiny@ocr, clip/tiny@description]'
	$(BIN)/clamr-bench run --task multivent/sample --output demo/results --retriever fused \
		--set 'fused.parts=[clamr/tiny, bm25-text]'
	$(BIN)/clamr-bench run --task m2kr/sample --output demo/results \
		--retriever random --retriever preflmr/tiny --retriever clamr/tiny
	$(BIN)/clamr-bench leaderboard --html --output demo/results

install: $(VENV)/.all ## Install everything for development

test: $(VENV)/.all ## Run every test that is not slow, browser, gpu or realdata (minutes)
	$(BIN)/python -m pytest -m "not slow and not browser and not gpu and not realdata"

test-slow: $(VENV)/.all ## Run the slow and the browser tests
	$(BIN)/python -m pytest -m "(slow or browser) and not gpu and not realdata"

test-realdata: $(VENV)/.all ## Run the checks on real data (CLAMR_BENCH_REAL_DATA=DIR)
	$(BIN)/python -m pytest -m realdata

lint: $(VENV)/.all ## Check style, types and generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.all ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.all ## Run the benchmarks side by side with the peers (benchmarks/results/)
	$(BIN)/python benchmarks/bm25.py --save
	$(BIN)/python benchmarks/evaluation.py --save
	$(BIN)/python benchmarks/prepare.py --save
	$(BIN)/python benchmarks/maxsim.py --save
	$(BIN)/python benchmarks/encode.py --save
	$(BIN)/python benchmarks/train_loss.py --save
	$(BIN)/python benchmarks/write_report.py

docs: $(VENV)/.all ## Write the generated documents, and the site into site/
	$(BIN)/python docs/write_schemas.py
	$(BIN)/python docs/write_cli.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

leaderboard: $(VENV)/.core ## Write results/tables and leaderboard.md from results/runs
	$(BIN)/clamr-bench leaderboard

lock: ## Renew constraints.txt: resolve everything anew in a fresh environment
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip --quiet install 'torch==2.13.0'
	.venv-lock/bin/python -m pip --quiet install 'torch==2.13.0' --editable '.[all]'
	(echo "# The whole tested set; renewed by \`make lock\`."; \
		.venv-lock/bin/python -m pip freeze --exclude-editable | sed -e 's/ @ .*//' -e 's/+cpu$$//') > constraints.txt
	rm -rf .venv-lock

wheel: $(VENV)/.all ## Build the wheel into dist/
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist .

clean: ## Remove environments, caches and the demo
	rm -rf $(VENV) .venv-lock dist demo site .mypy_cache .ruff_cache .pytest_cache .hypothesis
