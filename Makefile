# `make` prints the targets. Needs Rust by way of rustup (rust-toolchain.toml names the version), Go 1.26 or newer and make,
# on Linux. Everything else is built: the tools of the test bed once per user, below $XDG_CACHE_HOME/headwater.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

CLUSTERS ?= 3
KIND ?= full
CARGO ?= cargo
CARGO_DENY_VERSION := 0.20.2

# The environment as programs of the recipes see it, so that all of them agree on the folder.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/headwater
DENY := $(CACHE)/tools/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny
TARGET := $(or $(CARGO_TARGET_DIR),target)
BED := $(TARGET)/debug/bed
HEADWATER := $(TARGET)/debug/headwater
# Sources of the bundles with descriptions in their CRDs.
DESCRIBED := $(TARGET)/described

# Generated files: target, then what `headwater generate` calls it.
GENERATED := crds/headwater.dev_fluxinstances.yaml=crd+flux-instance \
  crds/headwater.dev_fluxfleets.yaml=crd+flux-fleet \
  config/rbac/hub.yaml=rbac-hub \
  config/rbac/target.yaml=rbac-target+bundles/flux \
  bundles/bundle.schema.json=bundle-schema \
  docs/cli.md=cli-reference

.PHONY: help
help: ## Print the targets
	@echo 'Usage: make TARGET'; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: ## Build headwater and the test bed for work (target/debug)
	@$(CARGO) build --workspace --bins

.PHONY: release
release: ## Build headwater as it is shipped (target/release; some minutes)
	@$(CARGO) build --release --bin headwater

.PHONY: tools
tools: build ## Build the test bed's tools that are not in the cache yet (API server, etcd, kwok, registry, Flux)
	@$(BED) build

.PHONY: demo
demo: ## Move a fleet of five real clusters on this machine in stages, with failures, and show it; KEEP=1 leaves them running
	@KEEP=$(KEEP) CARGO=$(CARGO) e2e/demo.sh

.PHONY: test
test: tools ## Run all tests, the scenarios on real API servers among them
	@RUST_TEST_THREADS=$${RUST_TEST_THREADS:-4} $(CARGO) test --workspace

.PHONY: fuzz
fuzz: ## Throw hostile input at all parsers under libFuzzer, SECONDS_EACH=30 per target (builds some minutes the first time)
	@SECONDS_EACH=$(or $(SECONDS_EACH),30) e2e/fuzz/run.sh

.PHONY: check
check: check-format check-lints check-deps check-generated check-bundles ## Everything CI checks beside the tests

.PHONY: check-format
check-format:
	@$(CARGO) fmt --all --check

.PHONY: check-lints
check-lints:
	@$(CARGO) clippy --workspace --all-targets -- -D warnings

# Advisories are a daily job of their own (`cargo deny check advisories`): a new one must not block an unrelated fix.
.PHONY: check-deps
check-deps: $(DENY)
	@$(DENY) check licenses bans sources

$(DENY):
	@echo 'building cargo-deny $(CARGO_DENY_VERSION) (once, about 2 min)'
	@$(CARGO) install --quiet --locked --debug --version $(CARGO_DENY_VERSION) --root $(patsubst %/bin/,%,$(dir $@)) cargo-deny

.PHONY: check-generated
check-generated: $(HEADWATER)
	@temp=$$(mktemp -d); trap 'rm -rf "$$temp"' EXIT; failed=
	for entry in $(GENERATED); do
	  file=$${entry%%=*}; what=$${entry#*=}
	  $(HEADWATER) generate $${what//+/ } > "$$temp/new"
	  diff -u "$$file" "$$temp/new" || { failed=1; echo "error: $$file is out of date; run \`make generate\`" >&2; }
	done
	[ -z "$$failed" ] && echo 'generated files are up to date'

.PHONY: check-bundles
check-bundles: ## Compare the CRDs in bundles/ with what the official Go modules generate, with descriptions and without
	@bundles/generate-crds.sh --check --descriptions $(DESCRIBED)
	HEADWATER_DESCRIBED=$(abspath $(DESCRIBED)) $(CARGO) test --quiet --lib descriptions_are_all

.PHONY: generate
generate: $(HEADWATER) ## Write the generated files: crds/, config/rbac/, bundle schema, docs/cli.md
	@temp=$$(mktemp -d); trap 'rm -rf "$$temp"' EXIT
	for entry in $(GENERATED); do
	  file=$${entry%%=*}; what=$${entry#*=}
	  mkdir -p "$$(dirname "$$file")"
	  $(HEADWATER) generate $${what//+/ } > "$$temp/new"
	  cmp -s "$$temp/new" "$$file" || { cp "$$temp/new" "$$file"; echo "wrote $$file"; }
	done

.PHONY: $(HEADWATER)
$(HEADWATER):
	@$(CARGO) build --workspace --bins

.PHONY: bundles
bundles: $(HEADWATER) ## Build all bundles into dist/; with DESCRIPTIONS=1 as they are published, so that `kubectl explain` works
	@if [ -n "$(DESCRIPTIONS)" ]; then
	  $(MAKE) check-bundles
	  sources=$(DESCRIBED)
	fi
	for bundle in "$${sources:-bundles}"/*/bundle.yaml; do $(HEADWATER) bundle build "$${bundle%/bundle.yaml}" --output dist; done

.PHONY: crds
crds: ## Regenerate the CRDs in bundles/ from the official Go modules
	@bundles/generate-crds.sh

.PHONY: bench
bench: release tools ## Measure on real API servers and write BENCHMARKS.md (about 50 min)
	@temp=$$(mktemp); trap 'rm -f "$$temp"' EXIT
	$(MAKE) bundles DESCRIPTIONS=1
	export HEADWATER_BIN=$(abspath $(TARGET))/release/headwater HEADWATER_PUBLISHED=$(abspath dist)
	$(CARGO) bench -p headwater-e2e --bench bench > "$$temp"
	$(CARGO) bench -p headwater-e2e --bench bundles >> "$$temp"
	$(CARGO) bench -p headwater-e2e --bench rest >> "$$temp"
	$(CARGO) bench -p headwater-e2e --bench fleet >> "$$temp"
	echo >> "$$temp"; $(CARGO) bench -p headwater --bench planner >> "$$temp"
	{ sed '/^<!-- figures -->/q' BENCHMARKS.md; echo; cat "$$temp"; } > "$$temp.md" && mv "$$temp.md" BENCHMARKS.md
	cat "$$temp"

.PHONY: bench-fleet
bench-fleet: release tools ## Measure with fleets of stand-ins, FLEET=100,1000 clusters (about 15 min)
	@HEADWATER_BIN=$(abspath $(TARGET))/release/headwater FLEET=$(or $(FLEET),100,1000) $(CARGO) bench -p headwater-e2e --bench fleet

.PHONY: bed
bed: build ## Start CLUSTERS=3 clusters of KIND=full (or plain, light, flux) and a registry, and print their kubeconfigs
	@$(BED) up --clusters $(CLUSTERS) --kind $(KIND) --registry

.PHONY: bed-down
bed-down: build ## End what `make bed` started
	@$(BED) down

.PHONY: clean
clean: ## Remove what was built here; the cache folder stays
	@if [ -x $(BED) ]; then $(BED) down; fi
	@$(CARGO) clean
	@rm -rf dist

