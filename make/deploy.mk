# Locking, building and deploying; a fragment of the Makefile.

GDK ?= gdk
COMPONENTS := . components/simulator components/dashboard components/bridge components/model
# The projects that deploy-local deploys, and the one that wheelhouse fetches for.
DEPLOY ?= .
PROJECT ?= .
# The devices that wheelhouse fetches for: ARCH=aarch64 PYTHON=3.11. Elsewhere PYTHON is the developer's command.
ARCH ?= aarch64
DEVICE_PYTHON := $(or $(filter 3.%,$(PYTHON)),3.11)
ifneq ($(filter 3.%,$(PYTHON)),)
override PYTHON := python3
endif
# `make lock LOCK_FLAGS=--upgrade` takes newer versions; without it, what is locked stays as far as pyproject.toml allows.
LOCK_FLAGS ?=
COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.10 \
	--custom-compile-command "make lock" $(LOCK_FLAGS)

.PHONY: lock wheelhouse site artifacts build deploy-local

lock: $(READY)  ## write the lock files: of a device, of the simulator, of a developer
	$(COMPILE) pyproject.toml -o requirements.lock
	$(COMPILE) components/simulator/requirements.in --constraints requirements.lock -o components/simulator/requirements.lock
	$(COMPILE) components/dashboard/requirements.in --constraints requirements.lock -o components/dashboard/requirements.lock
	$(COMPILE) components/bridge/requirements.in --constraints requirements.lock -o components/bridge/requirements.lock
	$(COMPILE) pyproject.toml components/simulator/requirements.in components/dashboard/requirements.in packages/greengrass-sandbox/pyproject.toml --extra cli \
		--constraints requirements.lock -o requirements-demo.lock
	$(COMPILE) pyproject.toml --extra dev --no-emit-package ml-inference -o requirements-dev.lock

wheelhouse: $(READY)  ## packages for devices without a network: ARCH=aarch64 PYTHON=3.11
	@$(BIN)/python scripts/fetch_wheels.py --uv $(BIN)/uv --arch "$(ARCH)" --python "$(DEVICE_PYTHON)" "$(PROJECT)"

site:  ## write the documents of examples/ with the values of examples/site.json to site/
	@python3 scripts/fill_in_site.py

artifacts:  ## build every component without GDK
	@for project in $(COMPONENTS); do python3 scripts/build_component.py "$$project" || exit 1; done

build:  ## build every component with GDK
	@command -v $(GDK) >/dev/null || { \
	  echo "make build: '$(GDK)' is not installed. The Greengrass Development Kit CLI comes from its Git repository; with git:"; \
	  echo "  python3 -m venv ~/gdk"; \
	  echo "  ~/gdk/bin/pip install git+https://github.com/aws-greengrass/aws-greengrass-gdk-cli.git@v1.6.2"; \
	  echo "  PATH=~/gdk/bin:\$$PATH"; \
	  echo "'make artifacts' builds the same files without it, but only GDK can publish them."; exit 1; } >&2
	@for project in $(COMPONENTS); do (cd "$$project" && $(GDK) component build) || exit 1; done

deploy-local: artifacts  ## deploy to the nucleus on this machine: DEPLOY=". components/simulator"
	@python3 scripts/deploy_local.py $(DEPLOY)
