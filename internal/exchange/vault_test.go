package exchange

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"testing"
	"unsafe"
)

func TestASecretIsWipedWhenItIsDropped(t *testing.T) {
	v, err := newVault(2)
	if err != nil {
		t.Fatal(err)
	}
	secret := bytes.Repeat([]byte{0xab}, 66)
	slot, ok := v.put(secret)
	if !ok || !bytes.Contains(v.arena, secret) {
		t.Fatal("it is not there")
	}
	v.use(slot, func(got []byte) {
		if !bytes.Equal(got, secret) {
			t.Errorf("got %x", got)
		}
	})
	v.drop(slot)
	if bytes.Contains(v.arena, []byte{0xab}) {
		t.Error("it is still there")
	}
	for range 2 {
		if _, ok := v.put(secret); !ok {
			t.Error("there is no room for two")
		}
	}
	if _, ok := v.put(secret); ok {
		t.Error("there is room for three")
	}
	if _, ok := v.put(make([]byte, slotSize)); ok {
		t.Error("there is room for a secret as long as a slot")
	}
	if err := v.close(); err != nil {
		t.Error(err)
	}
	if err := v.close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
	if _, ok := v.put(secret); ok {
		t.Error("there is room after the end")
	}
}

// The kernel says so itself: lo locked, dd not in a core file, wf wiped on fork
// (proc_pid_smaps(5)).
func TestSecretsAreLockedAndInNoCoreFile(t *testing.T) {
	v, err := newVault(1024)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = v.close() }()
	raw, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	flags := flagsOf(t, string(raw), v)
	for _, want := range []string{"lo", "dd", "wf"} {
		if !strings.Contains(flags, " "+want) {
			t.Errorf("the memory has the flags%s, want %s", flags, want)
		}
	}
}

// flagsOf finds the flags of the area that a vault's arena lies in.
func flagsOf(t *testing.T, smaps string, v *vault) string {
	t.Helper()
	at := uintptr(unsafe.Pointer(&v.arena[0]))
	inside := false
	for line := range strings.SplitSeq(smaps, "\n") {
		if from, rest, ok := strings.Cut(line, "-"); ok && len(from) >= 8 {
			to, _, _ := strings.Cut(rest, " ")
			start, err1 := strconv.ParseUint(from, 16, 64)
			end, err2 := strconv.ParseUint(to, 16, 64)
			if err1 == nil && err2 == nil {
				inside = uint64(at) >= start && uint64(at) < end
			}
		}
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && inside {
			return flags
		}
	}
	t.Fatal("the kernel does not know the memory")
	return ""
}
