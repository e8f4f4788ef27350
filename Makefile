# Needs Go and make, nothing else. `make lint` fetches its linter through the Go module proxy once.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# FUZZTIME is how long each fuzz target runs.
FUZZTIME ?= 10s
# BENCHTIME is how long each measured phase of make bench runs.
BENCHTIME ?= 2s
GOLANGCI_LINT_VERSION := v2.15.0

# No cgo, so that the binary needs no libc; -buildvcs=false because VERSION says it already and a
# checkout that another user owns would fail the build.
export CGO_ENABLED := 0
BUILD_FLAGS := -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)"

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build ## build, and start a relay on 127.0.0.1:8080 that keeps its data in ./data
	./bin/staffetta relay --data ./data

.PHONY: build
build: ## build ./bin/staffetta
	go build $(BUILD_FLAGS) -o bin/staffetta ./cmd/staffetta

.PHONY: test
test: ## run every test that needs nothing but Go
	go test ./...

.PHONY: test-all
test-all: ## run every test, those too that need PostgreSQL (of this machine) or npm
	.ci/postgres .ci/node go test -timeout 20m ./...

.PHONY: race
race: export CGO_ENABLED := 1
race: ## run the tests under the race detector (needs a C compiler)
	go test -race -timeout 40m ./...

.PHONY: bench-once
bench-once: ## run every Go benchmark once, to see that it still runs
	go test -run '^$$' -bench . -benchtime 1x ./...

.PHONY: bench
bench: build ## run every scenario of staffetta bench for BENCHTIME (2s) a phase; writes bin/bench.html and bin/bench/*.json
	./bin/staffetta bench suite --duration $(BENCHTIME) --json bin/bench --html bin/bench.html

# Never fails for being slow: for loss, disorder, or a report that cannot be made.
.PHONY: bench-ci
bench-ci: BENCHTIME := 500ms
bench-ci: bench ## run every scenario shortly, and report the results again
	./bin/staffetta bench report bin/bench/*.json --html bin/bench.html >/dev/null
	./bin/staffetta bench report bin/bench/receiver.json bin/bench/receiver.json --html bin/bench-compared.html >/dev/null

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (10s)
	@set -e; \
	listed=$$(go test -list '^Fuzz' ./...); \
	printf '%s\n' "$$listed" | \
	awk '/^Fuzz/ {name[n++] = $$1} /^ok/ {for (i = 0; i < n; i++) print $$2, name[i]; n = 0}' | \
	while read -r package target; do \
		echo "$$package $$target"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package"; \
	done

# An installed linter serves if it is the pinned version, else ./bin/tools gets it.
.PHONY: lint
lint: ## check style and the import rules; installs the pinned golangci-lint if it is missing
	@set -e; \
	for lint in "$(CURDIR)/bin/tools/golangci-lint" "$$(command -v golangci-lint || true)" "$$(go env GOPATH)/bin/golangci-lint"; do \
		if [ -x "$$lint" ] && [ "v$$("$$lint" version --short 2>/dev/null)" = $(GOLANGCI_LINT_VERSION) ]; then break; fi; \
		lint=; \
	done; \
	if [ -z "$$lint" ]; then \
		echo "installing golangci-lint $(GOLANGCI_LINT_VERSION) into bin/tools"; \
		GOBIN="$(CURDIR)/bin/tools" go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION); \
		lint="$(CURDIR)/bin/tools/golangci-lint"; \
	fi; \
	"$$lint" run --allow-parallel-runners ./...

.PHONY: check-deploy
check-deploy: build ## check deploy and the commands of docs/receiver.md against the binary
	.ci/deploy

.PHONY: clean
clean: ## remove ./bin; ./data stays
	rm -rf bin
