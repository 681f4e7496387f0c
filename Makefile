# Everything a newcomer needs: `make demo`, `make test`. Both create the environment themselves.
PYTHON ?= python3.11
VENV   ?= .venv
BIN     = $(VENV)/bin
# Without a GPU the CPU build of torch is asked for by its exact version: a plain `torch` brings gigabytes of CUDA.
TORCH  ?= torch==2.13.0
OUT    ?= out/demo

.PHONY: demo test lint bench clean setup

demo: setup
	$(BIN)/avatars demo --out $(OUT)

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

bench: setup
	$(BIN)/python -m cuda_ext.bench

setup: $(VENV)/.installed

# torch first (see above), everything at the versions that were tested together; then this project, whose CPU kernels are built with g++ at install.
$(VENV)/.installed: pyproject.toml .ci/constraints.txt cuda_ext/CMakeLists.txt $(wildcard cuda_ext/include/*) $(wildcard cuda_ext/cpu/*)
	@$(PYTHON) --version >/dev/null 2>&1 || { echo "Python 3.11 is needed: install it, or run make PYTHON=/path/to/python3.11"; exit 1; }
	@command -v g++ >/dev/null || { echo "g++ is needed to build the CPU kernels (Debian: apt-get install g++)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing torch and the other packages into $(VENV), and building the CPU kernels: a few minutes, once."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build out test-artifacts cuda_ext/*.so
