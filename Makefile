# gossip-caffe: `make` lists the targets. Each does first whatever is still missing (deploy/bootstrap.py).
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-system test-fresh simulate lint docs bench chaos chaos-long pycaffe clean

PYTHON ?=
BOOT := $(or $(PYTHON),python3)
SETUP = @command -v "$(BOOT)" >/dev/null \
	|| { echo "setup: there is no $(BOOT); install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 6; }; \
	"$(BOOT)" deploy/bootstrap.py $(if $(PYTHON),--only-this-python) $(PYCAFFE) --extras
# CUDA=1: pycaffe for NVIDIA GPUs too, from then on in this checkout; CUDA=0: for the CPU again.
PYCAFFE = $(if $(CUDA),--cuda $(CUDA)) $(if $(CUDA_ARCHS),--cuda-archs "$(CUDA_ARCHS)") $(if $(CUDNN),--cudnn $(CUDNN))
VENV := .venv/bin

help: ## list what can be made
	@echo "make TARGET [PYTHON=/path/to/python3]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 14
	@echo "A fresh machine needs only make, python3 and root or sudo; pycaffe is built once (minutes) and kept in the cache."
	@echo "CUDA=1 with setup or pycaffe builds it for NVIDIA GPUs too, CUDA_ARCHS=80,90 for these alone, CUDNN=0 without cuDNN."
	@echo "GOSSIP_CAFFE_PYCAFFE=/folder/with/caffe uses a pycaffe that you have; GOSSIP_CAFFE_CACHE moves the cache."

setup: ## install what is missing, and nothing else
	$(SETUP) dev

demo: ## train a small model with peers that join and die, and show what came of it
	$(SETUP) demo
	@$(VENV)/gossip-caffe demo

test: ## all tests, or those that ARGS selects (make test ARGS="tests/unit -k plan")
	$(SETUP) dev
	@$(VENV)/python -m pytest -n auto --dist loadgroup $(ARGS)

test-system: ## the tests of deploy/ with what it is for: Slurm, systemd and others; lists and installs these (LONG=1: all, minutes)
	$(SETUP) dev
	@$(VENV)/python deploy/system_packages.py $(if $(LONG),,--quick)
	@GOSSIP_CAFFE_LONG_TESTS=$(LONG) $(VENV)/python -m pytest $(or $(ARGS),tests/system)

test-fresh: ## README's two commands in fresh roots of Debian 12 and 13, by debootstrap: hours (FRESH_ARGS="--ca FILE")
	@[ "$$(id -u)" = 0 ] && command -v debootstrap >/dev/null || { echo "test-fresh: run it as root, with debootstrap installed" >&2; exit 2; }
	"$(BOOT)" deploy/fresh_root.py bookworm trixie --targets demo test $(FRESH_ARGS)

simulate: ## 500 simulated clusters of 16 peers with all faults (make simulate SEEDS=10000)
	$(SETUP) dev
	@$(VENV)/gossip-caffe simulate --peers 16 --faults all --seeds $(or $(SEEDS),500) $(ARGS)

lint: ## ruff and mypy
	$(SETUP) dev
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@$(VENV)/mypy

docs: ## the pages as a site in site/; a link that leads nowhere is an error
	$(SETUP) docs
	@$(VENV)/python deploy/generated_files.py
	@NO_MKDOCS_2_WARNING=1 $(VENV)/mkdocs build --strict

bench: ## all benchmarks, or one (make bench NAME=overhead)
	$(SETUP) dev
	@$(VENV)/python benchmarks/run.py $(NAME)

CHAOS := .chaos
SCENARIO := short

chaos: ## kill, freeze and part the processes of a cluster for some minutes, and check what is left
	$(SETUP) dev
	@rm -rf $(CHAOS)/$(SCENARIO)
	@$(VENV)/python -m tests.chaos_job $(CHAOS)/job 2
	@PACE_MS=20 $(VENV)/gossip-caffe chaos run examples/chaos/$(SCENARIO).toml --solver $(CHAOS)/job/solver.prototxt --folder $(CHAOS)/$(SCENARIO)

chaos-long: ## more than 1,000 kills, an hour; interrupted, it goes on
	$(SETUP) dev
	@$(VENV)/python -m tests.chaos_job $(CHAOS)/long-job 8
	@PACE_MS=20 $(VENV)/gossip-caffe chaos run examples/chaos/long.toml --solver $(CHAOS)/long-job/solver.prototxt --folder $(CHAOS)/long

pycaffe: ## build the pycaffe wheel and print where it is (make pycaffe CUDA=1: for NVIDIA GPUs too)
	$(SETUP) demo
	@$(VENV)/python deploy/pycaffe/build.py $(PYCAFFE)

clean: ## remove what was made in this checkout; the cache stays
	rm -rf .venv .chaos build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f gossip_caffe/wire/*_pb2.py gossip_caffe/wire/*_pb2.pyi gossip_caffe/system/*.so gossip_caffe/gossip/averaging/*.so
	find . -name __pycache__ -not -path "./.git/*" -prune -exec rm -rf {} +
