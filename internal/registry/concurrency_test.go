package registry_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"keyd/internal/registry"
)

// Readers always see one state: a key in use never seems to be without an
// active version, or with two, while its versions change places.
func TestReadersSeeWholeCommits(t *testing.T) {
	r := openFile(t, filepath.Join(t.TempDir(), "keyd.db"))
	must(t, r.PutKey(newKey(keyID)))
	bring(t, r, "a", registry.Active)
	_, err := r.Adopt(withMaterial("b"), by, "", 1)
	must(t, err)

	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				active := 0
				for _, v := range r.Versions(keyID) {
					if v.State == registry.Active {
						active++
					}
					if last := v.History[len(v.History)-1]; last.To != v.State {
						t.Errorf("%s is %s and its history ends in %s", v.KID, v.State, last.To)
					}
				}
				if active != 1 {
					t.Errorf("a reader saw %d active versions", active)
					return
				}
				r.TouchOpened("a", time.Now())
			}
		})
	}
	for i := range 50 {
		pair := []string{"a", "b"}
		must(t, move(r, to(pair[i%2], registry.Draining), to(pair[1-i%2], registry.Active)))
	}
	close(stop)
	readers.Wait()
	if v := r.Check(); len(v) != 0 {
		t.Errorf("Check: %+v", v)
	}
}

// Of writers that want the same, one gets it.
func TestOneOfManyWritersWins(t *testing.T) {
	r := openFile(t, filepath.Join(t.TempDir(), "keyd.db"))
	must(t, r.PutKey(newKey(keyID)))
	won := 0
	var mu sync.Mutex
	var writers sync.WaitGroup
	for i := range 16 {
		writers.Go(func() {
			_, err := r.Begin(newVersion(fmt.Sprintf("kid-%d", i)), by, "", 1, at)
			switch {
			case err == nil:
				mu.Lock()
				won++
				mu.Unlock()
			case !errors.Is(err, registry.ErrInFlight):
				t.Error(err)
			}
		})
	}
	writers.Wait()
	if won != 1 || len(r.Versions(keyID)) != 1 {
		t.Errorf("%d of 16 began a version and there are %d, want 1", won, len(r.Versions(keyID)))
	}
}
