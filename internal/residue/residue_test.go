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
	near := known[:len(known)-1] + "!" // begins as the one that it knows does
	sleeper := exec.CommandContext(t.Context(), "sleep", "600")
	sleeper.Env = append(os.Environ(), "KNOWN="+known)
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() }()
	found, err := residue.Find(sleeper.Process.Pid, map[string][]byte{
		"known": []byte(known), "a part of it": []byte(known[3:9]), "unknown": []byte(unknown), "near": []byte(near)})
	if err != nil || len(found) != 2 || found["known"] == 0 || found["a part of it"] < found["known"] {
		t.Errorf("found %v, %v, want the one that it knows, and its part", found, err)
	}
	if _, err := residue.Find(sleeper.Process.Pid, map[string][]byte{"nothing": nil}); err == nil {
		t.Error("nothing is looked for")
	}
	if _, err := residue.Find(1<<30, nil); err == nil {
		t.Error("there is no such process")
	}
}
