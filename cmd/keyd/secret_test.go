package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretsComeByReferenceOnly(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	t.Setenv("A_SECRET", "from the environment")
	good := write("pin", "1234\n", 0o600)
	for _, tc := range []struct {
		name, ref, want, err string
	}{
		{"a file, without its newline", "file:" + good, "1234", ""},
		{"a credential", "credential:pin", "1234", ""},
		{"the environment", "env:A_SECRET", "from the environment", ""},
		{"an unset variable", "env:NO_SUCH_SECRET", "", "not set"},
		{"a missing file", "file:" + dir + "/none", "", "no such file"},
		{"a directory", "file:" + dir, "", "not a regular file"},
		{"a file others can read", "file:" + write("open", "1234", 0o644), "", "open to everybody"},
		{"an empty file", "file:" + write("empty", "\n", 0o600), "", "is empty"},
		{"a huge file", "file:" + write("huge", strings.Repeat("x", maxSecret+1), 0o600), "", "larger than"},
		{"a credential that climbs out", "credential:../pin", "", "must be a reference"},
		{"an inline secret", "hunter2", "", "must be a reference"},
		{"nothing", "", "", "must be a reference"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := secretRef(tc.ref).read()
			if string(got) != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got error %v, want %q", err, tc.err)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error repeats what may be a secret: %v", err)
			}
		})
	}
}

func TestCredentialsCannotBeCheckedOutsideTheService(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if err := secretRef("credential:pin").check(); err != nil {
		t.Errorf("check: %v", err)
	}
	if _, err := secretRef("credential:pin").read(); err == nil || !strings.Contains(err.Error(), "LoadCredential") {
		t.Errorf("read: got %v, want a word about LoadCredential", err)
	}
}
