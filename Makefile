# Every target sets up what it needs and does nothing twice.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
DATA_DIR ?= $(HOME)/.cache/vae_jax
DEMO := workdir/demo

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long doctor-table ablation bench-fid bench-train bench-peers report lint format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.requirements ## create .venv with everything that training and evaluation need

demo: $(DEMO)/eval/metrics.json ## train a small VAE on Fashion-MNIST on the CPU, evaluate it and print the numbers
	@$(PY) -m vae_jax.report $(DEMO)

test: lint ## check style and types, and run the tests (8 to 15 minutes on 2 cores)
	$(PY) -m pytest -n 2 --dist=loadfile --no-loadscope-reorder

test-long: $(VENV)/.requirements-dev ## run only the longer tests
	$(PY) -m pytest -m long

doctor-table: $(VENV)/.requirements $(DATA_DIR)/fashion_mnist/train_images.npy ## train every known failure with three seeds and check that the doctor names it (an hour)
	$(PY) -m benchmarks.doctor_table --workdir=workdir/pathologies --data_dir=$(DATA_DIR)

ablation: $(VENV)/.requirements $(DATA_DIR)/fashion_mnist/train_images.npy ## compare schedules, weights, clipping and likelihoods (two hours)
	$(PY) -m vae_jax.studies.ablation --config=configs/ablation/fashion_mnist.py --workdir=workdir/ablation_fashion_mnist --data_dir=$(DATA_DIR)

bench-fid: $(VENV)/.requirements-dev ## measure the Inception network's images per second beside pytorch-fid
	$(PY) -m benchmarks.fid

bench-train: $(VENV)/.requirements-dev ## measure training's images per second beside PyTorch and flax's example
	$(PY) -m benchmarks.train --output=workdir/bench_train.json

bench-peers: $(VENV)/.requirements-dev $(DATA_DIR)/fashion_mnist/train_images.npy ## train vae_jax and pythae's models for half a CPU hour each and compare them (hours)
	$(PY) -m benchmarks.peers --data_dir=$(DATA_DIR)

report: $(VENV)/.requirements ## write the numbers and pictures of README.md and docs/ from workdir/
	$(PY) -m scripts.readme
	$(PY) -m scripts.overview
	$(PY) -m scripts.architecture

lint: $(VENV)/.requirements-dev ## check style with ruff and types with mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.requirements-dev ## fix the style; write requirements*.txt from pyproject.toml
	$(PY) -m scripts.requirements
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: ## remove .venv and caches (workdir/ and the data stay)
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache

# The numbers go to this file; `demo` prints them even if there was nothing left to do.
$(DEMO)/eval/metrics.json: $(VENV)/.requirements $(DATA_DIR)/fashion_mnist/train_images.npy configs/demo.py configs/default.py
	$(PY) train.py --config=configs/demo.py --workdir=$(DEMO) --config.data.dir=$(DATA_DIR)
	$(PY) evaluate.py --workdir=$(DEMO) --data_dir=$(DATA_DIR) --num_samples=0 > /dev/null
	@touch $@

$(DATA_DIR)/fashion_mnist/train_images.npy: | $(VENV)/.requirements
	scripts/get_fashion_mnist.sh $(PY) $(DATA_DIR)

$(VENV)/.requirements: requirements.txt
	scripts/make_venv.sh $(PYTHON) $(VENV)
	@echo "installing packages: takes minutes if they must be downloaded"
	$(PY) -m pip install --quiet --requirement $<
	@touch $@

$(VENV)/.requirements-dev: requirements-dev.txt $(VENV)/.requirements
	$(PY) -m pip install --quiet --requirement $<
	@touch $@
