package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/internal/hsm/worker"
	"keyd/internal/kms"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

func (d *keyd) makeBackends(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(d.cfg.Backends)) {
		open := d.openToken
		switch d.cfg.Backends[name].Type {
		case typeKMS:
			open = d.openKMS
		case typeLost:
			open = openLost
		}
		backend, err := open(ctx, name, d.cfg.Backends[name])
		if err != nil {
			return fmt.Errorf("backend %s: %w", name, err)
		}
		d.backends[name] = backend
	}
	return nil
}

func (d *keyd) openToken(ctx context.Context, name string, b backendConfig) (rotation.Backend, error) {
	var env []string
	for _, variable := range slices.Sorted(maps.Keys(b.Env)) {
		env = append(env, variable+"="+b.Env[variable])
	}
	token, err := worker.Open(ctx, worker.Config{
		Config: hsm.Config{
			Name: name, Instance: d.cfg.Instance, Module: b.Module, TokenLabel: b.TokenLabel, TokenSerial: b.TokenSerial,
			PIN: b.PIN.read, PINGuardPath: d.guard(name), Reserved: b.InitArgs,
			Sessions: b.Sessions, SessionWait: time.Duration(b.SessionWait), CallTimeout: time.Duration(b.CallTimeout),
			MinBoundary: boundary.Level(b.MinBoundary), OnlyLevel: d.cfg.only, Logger: d.part("hsm"), Observe: d.metrics.Token(name),
		},
		Command: workerProcess(name), Env: env, LogLevel: d.cfg.Log.level(),
		SeparateKeyGeneration: b.SeparateKeyGeneration,
	})
	if err != nil {
		return nil, err
	}
	d.closers = append(d.closers, token)
	return token, nil
}

// guard is the file in which a refused PIN is remembered.
func (d *keyd) guard(backend string) string {
	file := "pin-refused-" + backend
	if info, err := os.Stat(d.cfg.guards); err == nil && info.IsDir() {
		return filepath.Join(d.cfg.guards, file)
	}
	return d.state(file)
}

func (d *keyd) openKMS(ctx context.Context, name string, b backendConfig) (rotation.Backend, error) {
	cfg, err := b.KMS.settings(name, d.cfg.Instance)
	if err != nil {
		return nil, err
	}
	cfg.MinBoundary, cfg.Logger, cfg.Observe = boundary.Level(b.MinBoundary), d.part("kms"), d.metrics.Token(name)
	return kms.Open(ctx, cfg)
}

// settings are what the kms package makes of it, but for logs and metrics.
func (c kmsConfig) settings(name, instance string) (kms.Config, error) {
	policy, err := c.policy()
	return kms.Config{
		Name: name, Instance: instance, Region: c.Region, Endpoint: c.Endpoint, Profile: c.Profile, FIPS: c.FIPS,
		DeletionWindowDays: c.DeletionWindowDays, MultiRegion: c.MultiRegion, CustomKeyStore: c.CustomKeyStore,
		Policy: policy, Tags: c.Tags, Timeout: time.Duration(c.Timeout), Concurrency: c.Concurrency,
		Budget: kms.Budget(c.Budget), Logger: slog.New(slog.DiscardHandler),
	}, err
}

// policy reads the key policy; none is KMS's default.
func (c kmsConfig) policy() (string, error) {
	if c.PolicyFile == "" {
		return "", nil
	}
	raw, err := os.ReadFile(c.PolicyFile)
	if err != nil {
		return "", fmt.Errorf("reading the key policy: %w", err)
	}
	return string(raw), nil
}

func (p *problems) backend(path, name string, b backendConfig) {
	p.name(path, name)
	p.level(path+".min_boundary", b.MinBoundary)
	switch b.Type {
	case typePKCS11:
		p.token(path, b)
	case typeKMS:
		p.kms(path, name, b)
	case typeLost: // its settings may stay: they may be of use again
	default:
		p.add(path+".type", "%q: want %s, %s or %s", b.Type, typePKCS11, typeKMS, typeLost)
	}
}

var variableRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (p *problems) token(path string, b backendConfig) {
	if !reflect.ValueOf(b.KMS).IsZero() {
		p.add(path+".kms", "is for a backend of type kms")
	}
	if info, err := os.Stat(b.Module); err != nil {
		p.add(path+".module", "%v", err)
	} else if !info.Mode().IsRegular() {
		p.add(path+".module", "%s is not a file", b.Module)
	}
	if (b.TokenLabel == "") == (b.TokenSerial == "") {
		p.add(path, "give either token_label or token_serial")
	}
	p.check(path+".pin", b.PIN.check())
	p.between(path+".sessions", b.Sessions, 1, 1024)
	if b.SessionWait < 0 {
		p.add(path+".session_wait", "must not be negative")
	}
	if b.CallTimeout < registry.Duration(100*time.Millisecond) {
		p.add(path+".call_timeout", "%s: want 100ms or more", time.Duration(b.CallTimeout))
	}
	for name, value := range b.Env {
		// environ(7) ends a variable with a NUL.
		if !variableRE.MatchString(name) || strings.ContainsRune(value, 0) {
			p.add(path+".env", "%q is not the name of an environment variable, or its value holds a NUL", name)
		}
	}
}

func (p *problems) kms(path, name string, b backendConfig) {
	if b.Module != "" || b.TokenLabel != "" || b.TokenSerial != "" || b.PIN != "" || b.InitArgs != "" || len(b.Env) != 0 || b.SeparateKeyGeneration {
		p.add(path, "module, token_label, token_serial, pin, init_args, env and separate_key_generation are for a backend of type pkcs11")
	}
	if b.MinBoundary != "" && !boundary.Unwrap.AtLeast(boundary.Level(b.MinBoundary)) {
		p.add(path+".min_boundary", "AWS KMS reaches unwrap, never %s", b.MinBoundary)
	}
	cfg, err := b.KMS.settings(name, "any")
	p.check(path+".kms.policy_file", err)
	var all interface{ Unwrap() []error }
	if err := cfg.Validate(); errors.As(err, &all) {
		for _, err := range all.Unwrap() {
			p.check(path+".kms", err)
		}
	}
}
