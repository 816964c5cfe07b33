# Everything keyd needs beyond Go, gcc, make and apt is installed from here.
GO      ?= go
TOOLS   := $(CURDIR)/.tools
LINT    := $(TOOLS)/golangci-lint-2.15.0
VULN    := $(TOOLS)/govulncheck-1.9.0
DESTDIR ?=
PREFIX  ?= /usr

.PHONY: help build demo test race lint fuzz bench bench-kms bench-versions bench-pipe timing soak vuln softhsm tokens-install test-tokens tokens outside install clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/keyd and the simulators
	$(GO) build -trimpath -buildvcs=auto -o bin/ ./cmd/...

demo: softhsm build ## the main job from nothing, shown step by step
	@./demo/run.sh

test: softhsm outside ## every test, with the real tokens
	$(GO) vet ./...
	$(GO) test -count=1 -timeout 12m ./...

race: softhsm outside ## every test under the race detector
	$(GO) test -race -count=1 -timeout 25m ./...

lint: $(LINT) ## golangci-lint, pinned
	$(LINT) run ./...

fuzz: ## each fuzz target for FUZZTIME (default 30s)
	@./.ci/fuzz $(or $(FUZZTIME),30s)

bench: softhsm build ## the bare token against keyd's whole path, in turn, on a throw-away token (TOKEN=softhsm, nss, opencryptoki or tpm2; ARGS for keyd bench)
	@./softhsm/bench.sh $(or $(TOKEN),softhsm) $(ARGS)

bench-kms: softhsm ## the bare KMS call against keyd's whole path, in turn, on the pretended KMS
	$(GO) test -run '^$$' -bench '^BenchmarkDecryptKMS$$' -benchtime 12x -timeout 20m ./cmd/keyd

bench-versions: softhsm ## ten thousand versions against ten: the cost of an envelope, and of a start (KEYD_VERSIONS keeps the keys for next time)
	$(GO) test -run '^$$' -bench '^BenchmarkVersions$$' -benchtime 1x -timeout 60m ./cmd/keyd

bench-pipe: softhsm ## what it adds to an operation that the PKCS#11 module is in a process of its own
	$(GO) test -run '^$$' -bench '^BenchmarkPipe$$' -benchtime 8x -timeout 20m ./internal/hsm

timing: softhsm ## whether refusals take the same time: a million of each, and 5,000 through a token
	$(GO) test -count=1 -v -run 'TakeTheSameTime|LeakIsFound' -timeout 60m ./internal/boundary -timing-samples $(or $(SAMPLES),1000000)
	$(GO) test -count=1 -v -run LookTheSame -timeout 60m ./cmd/keyd -timing-samples 5000

soak: softhsm ## memory stays flat over a million good and a million bad envelopes (COUNT, TOKEN=SoftHSM, NSS, SoftHSM-ECDH, NSS-ECDH, p11-kit)
	KEYD_SOAK=$(or $(COUNT),1000000) KEYD_SOAK_TOKEN=$(TOKEN) $(GO) test -count=1 -v -run Soak -timeout 12h ./cmd/keyd

vuln: $(VULN) ## known vulnerabilities in what is linked (needs vuln.go.dev)
	$(VULN) ./...

softhsm: ## installs SoftHSM, NSS softoken, p11-kit and opensc if they are missing
	@./softhsm/install.sh

tokens-install: ## installs openCryptoki and tpm2-pkcs11 on a software TPM too
	@./softhsm/install.sh all

test-tokens: tokens-install ## the backend's contract on those two, and what docs/tokens.md says of them, as root
	$(GO) test -count=1 -tags tokens -timeout 15m -p 1 -run 'OpenCryptoki|TPM' ./internal/hsm ./internal/hsm/conformance ./softhsm/...

tokens: tokens-install ## docs/tokens.md: five tokens tried anew (about 6 minutes, as root)
	$(GO) test -count=1 -tags tokens -timeout 30m -run TestTokensPage ./internal/hsm/conformance -update

outside: ## installs the outside JOSE implementation the tests check against (npm jose)
	@./interop/install.sh

install: ## what make build made, into DESTDIR, as a system service
	@test -x bin/keyd || { echo "run make build first"; exit 1; }
	install -D -m 0755 bin/keyd $(DESTDIR)$(PREFIX)/bin/keyd
	install -D -m 0644 packaging/keyd.service $(DESTDIR)$(PREFIX)/lib/systemd/system/keyd.service
	install -D -m 0644 packaging/keyd.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/keyd.conf
	test -e $(DESTDIR)/etc/keyd/keyd.yaml || install -D -m 0644 packaging/keyd.yaml $(DESTDIR)/etc/keyd/keyd.yaml
	cd docs && find . -name '*.md' -o -name '*.yaml' | xargs -I{} install -D -m 0644 {} $(DESTDIR)$(PREFIX)/share/doc/keyd/docs/{}
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemd-sysusers keyd.conf && systemctl daemon-reload; fi

$(LINT):
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	mv $(TOOLS)/golangci-lint $@

$(VULN):
	GOBIN=$(TOOLS) $(GO) install golang.org/x/vuln/cmd/govulncheck@v1.9.0
	mv $(TOOLS)/govulncheck $@

clean: ## removes what was built (never a token or a registry in use)
	rm -rf bin .tools .demo coverage.out
