package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/metrics"
	"time"

	"keyd/internal/boundary"
)

// Modules leak: SoftHSM keeps something of every object of a session until it is
// finalized. A process that has grown too far is replaced before the machine runs
// out of memory and takes something else.

// mostGrowth is how much a module may grow after it has opened its token. Reading
// tens of thousands of keys comes before.
const mostGrowth = 256 << 20

// growthEvery is how often that is looked at.
const growthEvery = time.Second

// errGrown: nothing is wrong with the module but its size, so what it is doing may
// come to its end, within retireLimit.
var errGrown = errors.New("the PKCS #11 module has grown too large")

// outsideGo is how much resident memory the process has that Go knows nothing of.
func outsideGo() (int64, error) {
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("reading how large the process is: %w", err)
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(raw), &size, &pages); err != nil {
		return 0, fmt.Errorf("reading how large the process is: %w", err)
	}
	goes := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(goes)
	return pages*int64(os.Getpagesize()) - int64(goes[0].Value.Uint64()-goes[1].Value.Uint64()), nil
}

// watchGrowth has the daemon start another worker once this one's module has grown
// too large since now.
func (s *server) watchGrowth(ctx context.Context) {
	first, err := outsideGo()
	tick := time.NewTicker(growthEvery)
	defer tick.Stop()
	for err == nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var now int64
		if now, err = outsideGo(); err == nil && now > first+mostGrowth {
			s.broken(fmt.Errorf("%w, by %d MiB since it opened the token: %w", errGrown, (now-first)>>20, boundary.ErrUnavailable))
			return
		}
	}
	s.logger(0, "").Warn("it will not be noticed if the module leaks", "err", err)
}

// retireLimit is how long a worker that is to be replaced, and is well, may take
// for what it is doing.
const retireLimit = 2 * time.Second

// retire waits for the calls that are with a worker. No others come.
func (p *peer) retire() {
	end := time.Now().Add(retireLimit)
	for p.waiting() > 0 && time.Now().Before(end) {
		time.Sleep(2 * time.Millisecond)
	}
}

func (p *peer) waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.calls)
}
