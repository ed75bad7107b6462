# Two targets do it all on a fresh machine: demo and test. Both need Go 1.26; test also drives bq, node and npm, and says how to get
# what is missing.

GO ?= go
BIN := bin/trailgate
FUZZBUDGET ?= 600
export CGO_ENABLED ?= 0

# Tools, and what only tests drive, are modules of their own: their dependencies are none of Trailgate's.
TOOL := $(GO) tool -modfile=$(CURDIR)/tools/go.mod
NESTED := test/e2e/goclient test/deploy test/bench/tunnel

.PHONY: all build demo test test-short test-race lint soak bench fuzz clean help

all: build

build: ## the static binary, in bin/
	@command -v $(GO) >/dev/null || { echo "trailgate needs Go 1.26 or later: https://go.dev/dl" >&2; exit 1; }
	$(GO) build -trimpath -o $(BIN) ./cmd/trailgate

demo: build ## a gateway before a sandbox BigQuery, with two agents, until ^C
	@exec $(BIN) demo

test: build ## every test, the real clients among them
	$(GO) test -timeout 20m $$($(GO) list ./... | grep -v /test/)
	$(GO) test -count=1 -timeout 20m ./test/... # they build the binary themselves, so no cached result may stand for it
	cd test/deploy && $(GO) test -count=1 -timeout 10m ./...

test-short: ## without the real clients, in half a minute
	$(GO) test -short -timeout 10m ./...

test-race: ## the packages where goroutines meet, under the race detector
	CGO_ENABLED=1 $(GO) test -race -short -timeout 15m . ./internal/... ./cmd/...

lint: ## formatting, vet, staticcheck
	@out=$$($(TOOL) gofumpt -l .); [ -z "$$out" ] || { echo "gofumpt would change:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(TOOL) staticcheck ./...
	@for dir in $(NESTED); do (cd $$dir && $(GO) vet ./... && $(TOOL) staticcheck ./...) || exit 1; done

soak: ## half an hour of load: memory and descriptors must stay flat
	TRAILGATE_SOAK=1800 $(GO) test -count=1 -timeout 60m -v -run TestSoak ./test/chaos

bench: ## the figures of docs/benchmarks.md
	test/bench/run

fuzz: ## every fuzz target, within FUZZBUDGET seconds in all
	GO="$(GO)" FUZZBUDGET="$(FUZZBUDGET)" test/fuzz/run

clean: ## what was built
	rm -rf bin

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/	/'
