# make            builds libteflon.so (and .venv, which everything runs in)
# make classify   classifies a picture with the embedded model on the simulator
# make llama      tells a story with the embedded language model
# make rwkv       a story by a small RWKV
# make test       all tests          make check   ruff, mypy, import rules
#                 DEVICE=rocket or DEVICE=rknpu: through that driver, on the stand-in
# make bench      measurements       make clean   removes what was built, and .venv
# make wheels     wheels for x86-64 and aarch64 in dist/; the latter is tried under qemu-user, where that is installed
# make clients    other people's programs on the stand-in, under qemu-user
#
# PYTHON3=python3.12 make …   picks the Python that .venv is made of; otherwise 3.11, or the first newer one.

VENV ?= .venv
PYTHON := $(VENV)/bin/python
DEVICE ?= simulator
STAND_IN = $(if $(filter-out simulator,$(DEVICE)),$(PYTHON) -m delegate shim --nodes $(DEVICE) --)
SOURCES := $(addprefix delegate/,loader.c embed.c tflite_c_api.h bootstrap.py build.py $(addprefix hw/shim/,preload.c files.h directories.h nodes.h wire.h))
CANDIDATES := $(PYTHON3) python3.11 python3 python3.12 python3.13 python3.14
IS_GOOD := import sys; sys.exit(sys.version_info < (3, 11))

.PHONY: all classify llama rwkv test check bench wheels clients clean
.DELETE_ON_ERROR:

all: delegate/libteflon.so

classify: delegate/libteflon.so
	$(PYTHON) classification.py $(ARGUMENTS)

llama: delegate/libteflon.so
	$(PYTHON) examples/llama/run.py $(ARGUMENTS)

rwkv: delegate/libteflon.so
	$(PYTHON) examples/rwkv/run.py --cores 2 $(ARGUMENTS)

test: delegate/libteflon.so $(VENV)/.installed-test
	$(STAND_IN) $(PYTHON) -m pytest -n auto --device $(DEVICE) $(ARGUMENTS)

check: delegate/libteflon.so $(VENV)/.installed-dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -q tests/test_layers.py

bench: delegate/libteflon.so $(VENV)/.installed-test
	$(PYTHON) -m benchmarks.speed $(ARGUMENTS)

wheels: delegate/libteflon.so $(VENV)/.installed-release
	$(PYTHON) -m release.wheels $(ARGUMENTS)

clients: delegate/libteflon.so $(VENV)/.installed-release
	$(PYTHON) -m release.clients $(ARGUMENTS)

clean:
	rm -rf $(VENV) build dist *.egg-info delegate/*.so delegate/hw/shim/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

delegate/libteflon.so: $(SOURCES) | $(VENV)/.installed
	$(PYTHON) -m delegate.build

# Debian's Python without python3-venv makes an environment without pip; its pip can put one in.
$(PYTHON):
	@for python in $(CANDIDATES); do \
	  if $$python -c '$(IS_GOOD)' 2>/dev/null; then \
	    echo "$(VENV): $$($$python --version)"; \
	    $$python -m venv $(VENV) >/dev/null 2>&1 && exit 0; \
	    $$python -m venv --clear --without-pip $(VENV) && $$python -m pip --python $(PYTHON) install -q pip && exit 0; \
	    rm -rf $(VENV); echo "error: $$python cannot make an environment; install python3-venv" >&2; exit 1; \
	  fi; \
	done; echo "error: Python 3.11 or newer is needed" >&2; exit 1

$(VENV)/.installed: pyproject.toml setup.py | $(PYTHON)
	$(PYTHON) -m pip install -q --disable-pip-version-check "setuptools>=70.1" "cffi>=1.16"
	$(PYTHON) -m pip install -q --disable-pip-version-check --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-%: pyproject.toml $(VENV)/.installed
	$(PYTHON) -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[$*]"
	@touch $@
