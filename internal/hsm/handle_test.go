package hsm_test

import (
	"errors"
	"strings"
	"testing"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
)

func TestHandleIsAPKCS11URI(t *testing.T) {
	for handle, want := range map[string][2]string{
		"pkcs11:id=%00%FF;object=keyd%2Ftest%2Fa-b_c.d~": {"\x00\xff", "keyd/test/a-b_c.d~"},
		"pkcs11:id=;object=x":                            {"", "x"},
		"pkcs11:id=%01;object=":                          {"\x01", ""},
		"pkcs11:id=%01;object=%3Bobject%3D%25":           {"\x01", ";object=%"},
	} {
		id, label, err := hsm.ParseHandle(handle)
		if err != nil || id != want[0] || label != want[1] {
			t.Errorf("%s: got %q, %q, %v, want %q", handle, id, label, err, want)
		}
		if got := hsm.FormatHandle(want[0], want[1]); got != handle {
			t.Errorf("formatting %q: got %s, want %s", want, got, handle)
		}
	}
}

func FuzzHandle(f *testing.F) {
	for _, seed := range []string{
		"", "pkcs11:", "pkcs11:id=;object=", "pkcs11:id=%01;object=x", "pkcs11:id=%1;object=%", "pkcs11:id=%zz;object=x",
		"pkcs11:id=%0a;object=x", "pkcs11:id=a;object=x", "pkcs11:id=%01;object=%78", "pkcs11:id=%01;object=x;object=y",
		"PKCS11:id=%01;object=x", "pkcs11:object=x;id=%01",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, handle string) {
		id, label, err := hsm.ParseHandle(handle)
		if err != nil {
			if !errors.Is(err, boundary.ErrNoKey) || len(err.Error()) > 2000 || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("%q: an error that is not fit for a log: %v", handle, err)
			}
			return
		}
		// A key has one handle, not several spellings of it.
		if got := hsm.FormatHandle(id, label); got != handle {
			t.Errorf("%q reads as %q, %q, which is written %q", handle, id, label, got)
		}
	})
}
