# Needs git, make, a C compiler and Node.js 20 or newer with npm; `make setup` brings the rest.
.DEFAULT_GOAL := help
.PHONY: help setup parts check generate unit e2e test demo bench clean

# The pinned Node and the tools of node_modules come first (not for setup: npm must not run on a Node it deletes).
run := PATH="$(CURDIR)/node_modules/.bin:$$PATH"

help: ## this list
	@sed -n 's/^\([a-z0-9]*\):[^#]*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## install and build what the checkout needs (again: fast, nothing to do)
	@tools/setup.sh

parts: setup ## setup, and what only tests need: older Envoys, SoftHSM, a software TPM
	@tools/setup.sh test-parts

check: setup ## types, lint, architecture, unused code, generated files
	@$(run) node tools/check.ts

generate: setup ## make the generated files again
	@$(run) node tools/generate.ts

unit: setup ## unit tests
	@$(run) vitest run --project unit

e2e: parts ## end-to-end tests with real processes and a real Envoy
	@$(run) vitest run --project e2e

test: parts check ## all of it: set-up, checks, unit and end-to-end tests
	@$(run) vitest run

demo: setup ## two Envoys speak mTLS with rotating identities; Ctrl-C ends it
	@$(run) exec node demo/demo.ts

bench: setup ## measure and print numbers; BENCH=name for one of bench/
	@for name in $(or $(BENCH),$(filter-out support,$(basename $(notdir $(wildcard bench/*.ts))))); do \
	  echo "$$name:"; $(run) node "bench/$$name.ts" || exit 1; \
	done

clean: ## remove what setup and builds made
	rm -rf node_modules dist coverage .cache .vitest native/*.node
