// Package keyd_test holds the tree to the table in docs/architecture.md.
package keyd_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// ours is which of our packages each package may import. cmd/keyd wires
// everything and is not listed; the simulator and demos are never linked into it.
var ours = map[string][]string{
	"keyd/client":                        nil,
	"keyd/internal/boundary":             nil,
	"keyd/internal/registry":             nil,
	"keyd/internal/audit":                nil,
	"keyd/internal/partner":              nil,
	"keyd/internal/partner/partnersim":   nil,
	"keyd/internal/hsm":                  {"keyd/internal/boundary"},
	"keyd/internal/hsm/worker":           {"keyd/internal/hsm", "keyd/internal/boundary"},
	"keyd/internal/hsm/conformance":      {"keyd/internal/hsm", "keyd/internal/boundary"},
	"keyd/internal/jwe":                  {"keyd/internal/boundary"},
	"keyd/internal/rotation":             {"keyd/internal/registry", "keyd/internal/audit", "keyd/internal/boundary"},
	"keyd/internal/rotation/backendtest": {"keyd/internal/rotation", "keyd/internal/boundary"},
	"keyd/internal/evidence":             {"keyd/client", "keyd/internal/audit"},
	"keyd/internal/field":                nil,
	"keyd/internal/exchange":             {"keyd/internal/boundary", "keyd/internal/jwe"},
	"keyd/internal/api": {"keyd/client", "keyd/internal/exchange", "keyd/internal/field", "keyd/internal/evidence", "keyd/internal/rotation", "keyd/internal/registry",
		"keyd/internal/jwe", "keyd/internal/audit", "keyd/internal/boundary"},
	"keyd/cmd/kmssim":                 {"keyd/internal/kms/kmstest"},
	"keyd/cmd/partnersim":             {"keyd/internal/jwe", "keyd/internal/partner", "keyd/internal/partner/partnersim"},
	"keyd/softhsm/softhsmtest":        nil,
	"keyd/internal/kms":               {"keyd/internal/boundary"},
	"keyd/internal/kms/kmstest":       nil,
	"keyd/internal/residue":           nil,
	"keyd/internal/hsm/baretoken":     nil,
	"keyd/internal/hsm/faultytest":    nil,
	"keyd/internal/boundary/oaeptest": nil,
	"keyd/internal/bench":             nil,
	"keyd/internal/dudect":            nil,
}

// theirs is which folder alone may import a third-party module, and why it
// matters: swapping the module then touches one folder.
var theirs = map[string][]string{
	"go.etcd.io/bbolt":                    {"keyd/internal/registry"},
	"github.com/miekg/pkcs11":             {"keyd/internal/hsm", "keyd/internal/hsm/baretoken", "keyd/internal/hsm/conformance"},
	"github.com/aws/":                     {"keyd/internal/kms"},
	"github.com/go-jose/go-jose":          {"keyd/internal/jwe", "keyd/internal/partner", "keyd/internal/partner/partnersim"},
	"github.com/robfig/cron":              {"keyd/internal/rotation"},
	"github.com/prometheus/client_golang": {"keyd/internal/api"},
}

type goPackage struct {
	ImportPath string
	Doc        string
	Imports    []string
	Deps       []string
}

func list(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Doc,Imports,Deps", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []goPackage
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

func TestImportsFollowTheArchitecture(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range list(t) {
		seen[p.ImportPath] = true
		allowed, listed := ours[p.ImportPath]
		for _, imported := range p.Imports {
			if listed && strings.HasPrefix(imported, "keyd/") && !slices.Contains(allowed, imported) {
				t.Errorf("%s imports %s: docs/architecture.md does not allow it; let the consumer declare an interface instead", p.ImportPath, imported)
			}
			for module, folders := range theirs {
				if strings.HasPrefix(imported, module) && !slices.Contains(folders, p.ImportPath) {
					t.Errorf("%s imports %s: only %s may", p.ImportPath, imported, strings.Join(folders, " and "))
				}
			}
		}
		if !listed && p.ImportPath != "keyd/cmd/keyd" && strings.HasPrefix(p.ImportPath, "keyd/") {
			t.Errorf("%s is not in the table: say what it may import", p.ImportPath)
		}
	}
	for name := range ours {
		if !seen[name] {
			t.Errorf("%s is in the table and not in the tree", name)
		}
	}
}

func TestTheDaemonLinksNoTestDouble(t *testing.T) {
	doubles := []string{"keyd/internal/residue", "keyd/internal/kms/kmstest", "keyd/internal/hsm/baretoken", "keyd/internal/hsm/faultytest", "keyd/internal/boundary/oaeptest", "keyd/internal/dudect", "keyd/internal/partner/partnersim", "keyd/internal/rotation/backendtest", "keyd/softhsm/softhsmtest", "testing"}
	for _, p := range list(t) {
		if p.ImportPath != "keyd/cmd/keyd" {
			continue
		}
		for _, double := range doubles {
			if slices.Contains(p.Deps, double) {
				t.Errorf("the daemon links %s: a test double in production is a back door", double)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range list(t) {
		if p.Doc == "" && p.ImportPath != "keyd" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}
