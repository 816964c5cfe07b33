package registry_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"keyd/internal/registry"
)

func TestNewerSchemaIsRefused(t *testing.T) {
	engine := newMemory()
	open(t, engine)
	engine.raw(t, "meta", "schema", strconv.Itoa(registry.SchemaVersion+1))
	_, err := registry.New(engine)
	wantErr(t, err, registry.ErrNewerSchema)
	newer, ok := errors.AsType[*registry.NewerSchemaError](err)
	if !ok || newer.Found != registry.SchemaVersion+1 || newer.Known != registry.SchemaVersion {
		t.Errorf("got %#v, want found %d and known %d", newer, registry.SchemaVersion+1, registry.SchemaVersion)
	}
	if !strings.Contains(err.Error(), "schema 2, this keyd knows 1") {
		t.Errorf("got %q", err)
	}
}

func TestWhatCannotBeReadIsCorrupt(t *testing.T) {
	for name, spoil := range map[string]func(*memory){
		"schema is no number":    func(m *memory) { m.raw(t, "meta", "schema", "one") },
		"revision is no number":  func(m *memory) { m.raw(t, "meta", "revision", "-1") },
		"key is no JSON":         func(m *memory) { m.raw(t, "keys", "k", "{") },
		"version is no JSON":     func(m *memory) { m.raw(t, "versions", "k", "[]") },
		"partner key is no JSON": func(m *memory) { m.raw(t, "partner_keys", "k", "") },
		"key under another name": func(m *memory) { m.raw(t, "keys", "k", `{"name":"other"}`) },
		"version of another kid": func(m *memory) { m.raw(t, "versions", "k", `{"kid":"other"}`) },
		"records without schema": func(m *memory) { delete(m.buckets["meta"], "schema"); m.raw(t, "keys", "k", `{"name":"k"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			engine := newMemory()
			open(t, engine)
			spoil(engine)
			_, err := registry.New(engine)
			wantErr(t, err, registry.ErrCorrupt)
			if err != nil && !strings.Contains(err.Error(), "restore it from a backup") {
				t.Errorf("error %q does not say what to do", err)
			}
		})
	}
}

func TestMigrationTakesEveryStepOrNone(t *testing.T) {
	engine := newMemory()
	must(t, engine.Update(func(tx registry.Tx) error { return tx.Put("meta", "schema", []byte("1")) }))
	broken := errors.New("broken")
	var taken []int
	steps := map[int]func(registry.Tx) error{
		1: func(registry.Tx) error { taken = append(taken, 1); return nil },
		2: func(tx registry.Tx) error { taken = append(taken, 2); return tx.Put("keys", "k", []byte("v")) },
		4: func(registry.Tx) error { return broken },
	}
	migrate := func(from, to int) error {
		return engine.Update(func(tx registry.Tx) error { return registry.Migrate(tx, from, to, steps) })
	}
	must(t, migrate(1, 3))
	if len(taken) != 2 || taken[0] != 1 || taken[1] != 2 || string(engine.buckets["meta"]["schema"]) != "3" {
		t.Errorf("took %v to schema %s", taken, engine.buckets["meta"]["schema"])
	}
	wantErr(t, migrate(3, 5), registry.ErrCorrupt) // there is no step 3
	wantErr(t, migrate(4, 5), broken)
	if got := string(engine.buckets["meta"]["schema"]); got != "3" {
		t.Errorf("failed steps left schema %s, want 3", got)
	}
}
