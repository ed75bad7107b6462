# Two targets do it all on a fresh machine: demo and test. Both need Go, nothing else is built or installed
# by hand; `make test` says which other tools it drives and how to get them.

GO ?= go
BIN := bin/trailgate
TOOL := $(GO) tool -modfile=tools/go.mod
export CGO_ENABLED ?= 0

.PHONY: all build demo test test-race lint bench fuzz clean

all: build

build: ## the static binary, in bin/
	@command -v $(GO) >/dev/null || { echo "trailgate needs Go 1.26 or later: https://go.dev/dl" >&2; exit 1; }
	$(GO) build -trimpath -o $(BIN) ./cmd/trailgate

demo: build ## a gateway with a sandbox BigQuery and two agents, until ^C
	@$(BIN) demo

test: build ## every test, with the real clients
	$(GO) test ./...


test-race: ## the packages where goroutines meet
	CGO_ENABLED=1 $(GO) test -race . ./internal/...

lint:
	@out=$$($(TOOL) gofumpt -l .); [ -z "$$out" ] || { echo "gofumpt wants to change:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(TOOL) staticcheck ./...

bench: build ## every figure of docs/benchmarks.md
	$(GO) test -run '^$$' -bench . -benchtime 2s -timeout 60m ./internal/... ./test/bench/...

clean:
	rm -rf bin
