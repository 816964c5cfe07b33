package residue_test

import (
	"crypto/rand"
	"os"
	"os/exec"
	"testing"

	"keyd/internal/residue"
)

func TestWhatAProcessKnowsIsFoundAndNothingElse(t *testing.T) {
	known, unknown := rand.Text(), rand.Text()
	sleeper := exec.CommandContext(t.Context(), "sleep", "60")
	sleeper.Env = append(os.Environ(), "KNOWN="+known)
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() }()
	found, err := residue.Find(sleeper.Process.Pid, map[string][]byte{"known": []byte(known), "unknown": []byte(unknown)})
	if err != nil || found["known"] == 0 || found["unknown"] != 0 {
		t.Errorf("found %v, %v, want the one that it knows", found, err)
	}
	if _, err := residue.Find(1<<30, nil); err == nil {
		t.Error("there is no such process")
	}
}
