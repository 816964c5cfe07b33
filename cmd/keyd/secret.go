package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// secretRef is where a secret is, never the secret: credential:NAME (a systemd
// credential), file:/path or env:NAME.
type secretRef string

// maxSecret bounds a secret file; a PIN or an OAuth secret is far smaller.
const maxSecret = 64 << 10

// errNoCredentials: a credential: reference outside a systemd service.
var errNoCredentials = errors.New("CREDENTIALS_DIRECTORY is not set: not started by systemd with LoadCredential=")

// check says whether the reference is well formed and its secret is there. It
// reads no secret. Outside the service, credentials cannot be looked at.
func (r secretRef) check() error {
	kind, name, err := r.parse()
	if err != nil || kind == "env" {
		return err
	}
	path, err := r.path(kind, name)
	if err != nil {
		if errors.Is(err, errNoCredentials) {
			return nil
		}
		return err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("secret %s: %w", r, err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("secret %s: not a regular file", r)
	case info.Mode().Perm()&0o007 != 0:
		return fmt.Errorf("secret %s: open to everybody (mode %04o); chmod o-rwx it", r, info.Mode().Perm())
	}
	return nil
}

// read returns the secret without its trailing newline. The caller wipes it.
func (r secretRef) read() ([]byte, error) {
	kind, name, err := r.parse()
	if err != nil {
		return nil, err
	}
	if kind == "env" {
		value, ok := os.LookupEnv(name)
		if !ok || value == "" {
			return nil, fmt.Errorf("secret %s: the environment variable is not set", r)
		}
		return []byte(value), nil
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	path, err := r.path(kind, name)
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", r, err)
	}
	return readSecretFile(r, path)
}

func readSecretFile(r secretRef, path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", r, err)
	}
	secret := bytes.TrimRight(raw, "\r\n")
	if len(secret) == 0 || len(secret) > maxSecret {
		clear(raw)
		return nil, fmt.Errorf("secret %s: is empty or larger than %d bytes", r, maxSecret)
	}
	return secret, nil
}

func (r secretRef) parse() (kind, name string, err error) {
	kind, name, ok := strings.Cut(string(r), ":")
	if ok && name != "" {
		switch kind {
		case "file", "env":
			return kind, name, nil
		case "credential":
			if filepath.Base(name) == name {
				return kind, name, nil
			}
		}
	}
	// The text itself may be a secret somebody wrote inline: not repeated.
	return "", "", errors.New("a secret must be a reference: credential:NAME, file:/path or env:NAME")
}

func (r secretRef) path(kind, name string) (string, error) {
	if kind == "file" {
		return name, nil
	}
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", errNoCredentials
	}
	return filepath.Join(dir, name), nil
}
