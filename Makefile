# Two commands set everything up on a fresh Debian or Ubuntu machine with Swift: make demo, make test.

SWIFT ?= swift
# The import check fails a build that imports a module without declaring it: the layering holds.
CHECK := --explicit-target-dependency-import-check error

.DEFAULT_GOAL := help
.PHONY: demo test check bench format clean help release

demo: ## A server, a fleet of simulated devices, a heatmap that fills in; the report is in report/
	@scripts/bootstrap build
	@echo "Building; the first time takes a few minutes" >&2
	@$(SWIFT) build --product isotherm
	@.build/debug/isotherm demo

test: ## All tests, against real peers
	@scripts/bootstrap test
	@echo "Building; the first time takes a few minutes" >&2
	@$(SWIFT) build --build-tests $(CHECK)
	@$(SWIFT) test --skip-build

check: ## Style, warnings, layering and tests: before a commit
	@scripts/check
	@$(MAKE) test

bench: ## The figures of the design, with their conditions (release build)
	@scripts/bootstrap build
	@Benchmarks/run

release: ## The program for production: .build-release/release/isotherm
	@scripts/bootstrap build
	@$(SWIFT) build -c release --product isotherm --scratch-path .build-release

format: ## Rewrites the sources in house style
	@$(SWIFT) format --in-place --recursive --parallel Package.swift Sources Examples Tests Benchmarks

clean: ## Removes what was built
	rm -rf .build .build-release .build-tools report

help: ## This list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1@\2/' | column -t -s@
