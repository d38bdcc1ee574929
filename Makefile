# Local work and CI run these same targets. `make setup` needs only Python 3.11 or newer.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
MODELS ?= models
# Tests wait for sockets and processes most of the time, so more of them fit than there are cores.
JOBS   ?= 3

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test interop lint proto bench bench-raw bench-rest bench-traces growth overload processes profile bench-client fuzz fuzz-readers bench-gpu bench-training conformance third-party attacks hostile-models soak tasks raw-rows recipes panels settings fmt constraints

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The stamp is newer than what it was installed from, so a second `make` installs nothing.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,dev]'
	touch $@

setup: $(VENV)/.installed  ## install everything into .venv

demo: setup  ## train on real data, publish, serve, predict, show the answers and the metrics; ARGS=--stay goes on serving
	$(BIN)/frostline demo $(ARGS)

serve: setup  ## serve the models in $(MODELS)
	$(BIN)/frostline serve --models $(MODELS)

# Workers and hundreds of servers import the same sources, so what they compile is kept, also where the user's environment
# says otherwise.
test: setup  ## run the tests, with branch coverage
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-fail-under=90 $(ARGS)

interop: setup  ## test with Go and C++ clients (Debian packages golang-go, golang-google-grpc-dev, g++, pkg-config, libgrpc++-dev)
	FROSTLINE_COMPILED_CLIENTS=1 $(BIN)/python -m pytest tests/integration/test_compiled_clients.py $(ARGS)

lint: setup  ## formatting, lint, types, import arrows, and that generated code is fresh
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	rm -rf $(VENV)/fresh && $(BIN)/python proto/generate.py $(VENV)/fresh
	diff --recursive --exclude=__pycache__ --exclude=__init__.py $(VENV)/fresh/frostline/pb frostline/pb

fmt: setup  ## format the code and apply safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: setup  ## regenerate frostline/pb from proto/
	$(BIN)/python proto/generate.py

bench: setup  ## measure the server against its goals and floors (needs h2load, Debian package nghttp2-client)
	$(BIN)/python -m bench $(ARGS)

bench-rest: setup  ## measure REST on one core, and gRPC beside it (needs h2load)
	$(BIN)/python -m bench.rest $(ARGS)

bench-traces: setup  ## measure on one core what traces and the access log take (needs h2load)
	$(BIN)/python -m bench.traces $(ARGS)

bench-raw: setup  ## measure raw rows and pictures on one core, beside numbers and beside Pillow
	$(BIN)/python -m bench.raw $(ARGS)

growth: setup  ## measure a request's cost against its rows and bytes, the models loaded and the connections
	$(BIN)/python -m bench.scaling $(ARGS)

overload: setup  ## measure what the server does with twice the load it can carry
	$(BIN)/python -m bench.overload $(ARGS)

processes: setup  ## measure what several processes answer, against one
	$(BIN)/python -m bench.processes $(ARGS)

profile: setup  ## show where a request's microseconds go in the server
	$(BIN)/python -m bench.profile $(ARGS)

bench-client: setup  ## compare a call's time with this client and with tritonclient
	$(BIN)/python -m bench.client $(ARGS)

fuzz: setup  ## send the server a million broken messages and 100 000 broken connections beside an honest caller
	$(BIN)/python -m bench.fuzz $(ARGS)

fuzz-readers: setup  ## feed the readers of messages and files with mutated bytes, guided by coverage where the extra fuzz is installed
	$(BIN)/python -m bench.fuzz.readers $(ARGS)

bench-gpu: setup  ## measure the server on a GPU against ONNX Runtime there (needs one, and the extra cuda)
	$(BIN)/python -m bench.gpu $(ARGS)

bench-training: setup  ## measure what the training loop costs over one written by hand
	$(BIN)/python -m bench.training $(ARGS)

conformance: setup  ## compare a real server with ONNX Runtime on the ONNX project's backend suite
	$(BIN)/python -m bench.conformance $(ARGS)

third-party: setup  ## the same on ONNX files of packages, which it downloads from PyPI
	$(BIN)/python -m bench.conformance.third_party $(ARGS)

attacks: setup  ## attack a real server beside an honest client, and measure what the client and memory notice
	$(BIN)/python -m bench.attacks $(ARGS)

hostile-models: setup  ## serve three good models among a hundred hostile ones, and measure what their callers notice
	$(BIN)/python -m bench.hostile_models $(ARGS)

soak: setup  ## an hour of mixed load with new versions, hostile models and bad calls; every answer is checked
	$(BIN)/python -m bench.soak $(ARGS)

tasks: setup  ## train a network of every task, ask it through five clients, and write the table of docs/training.md
	$(BIN)/python -m bench.tasks

raw-rows: setup  ## send the raw rows of whole test splits through every client, and compare with the trained networks
	$(BIN)/python -m bench.raw_rows

recipes: setup  ## train every built-in recipe, and write the table of docs/training.md
	$(BIN)/python -m frostline_training.table

panels: setup  ## draw the dashboards under real load into docs/images (needs Debian package prometheus)
	$(BIN)/python -m bench.panels $(ARGS)

settings: setup  ## write the table of settings of docs/operating.md
	$(BIN)/python -m frostline.cli.settings

constraints: setup  ## write the versions installed now to constraints.txt
	$(BIN)/pip freeze --exclude-editable | sed -E 's/\+[a-z0-9.]+$$//' > constraints.txt
