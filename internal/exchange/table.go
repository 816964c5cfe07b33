package exchange

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"keyd/internal/boundary"
)

const (
	// mostTries is how many replies may fail to open before an exchange is over:
	// whoever sends them must not go on for as long as its time lasts.
	mostTries = 3
	// releaseWithin bounds how long a backend may take to forget a key.
	releaseWithin = 5 * time.Second

	bootBytes, idBytes = 4, 16
)

// errStopped: the table was closed.
var errStopped = errors.New("keyd is stopping")

// Table has the exchanges that are open. Its methods may be called at the same
// time.
type Table struct {
	cfg   Config
	vault *vault
	host  *memory
	boot  string // stands in the ids, so that those of an earlier run are told from made-up ones

	mu     sync.Mutex
	open   map[string]*entry
	counts map[Owner]int  // those being begun count too
	each   map[string]int // by partner
	closed bool
	live   sync.WaitGroup // exchanges whose secret is held, or about to be
}

// entry is an open exchange. Whoever takes it out of the table sees to its end.
type entry struct {
	Ticket
	Owner
	secret secret
	timer  *time.Timer
	turn   chan struct{} // holds one while somebody uses secret or tries
	tries  int
}

// New makes a table, and sets locked memory aside for all that it may have to
// hold.
func New(cfg Config) (*Table, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	v, err := newVault(cfg.Partners * cfg.PerPartner)
	if err != nil {
		return nil, fmt.Errorf("exchange: %w", err)
	}
	return &Table{cfg: cfg, vault: v, host: newMemory(v), boot: random(bootBytes),
		open: map[string]*entry{}, counts: map[Owner]int{}, each: map[string]int{}}, nil
}

func random(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails: crypto/rand ends the process first
	return hex.EncodeToString(b)
}

// Direct begins an exchange whose reply comes under cek, the content key of its
// request, which the caller wipes. holder is where it is held: nil, or one that
// cannot hold any, stands for keyd's own memory. One that cannot now is an
// error.
func (t *Table) Direct(ctx context.Context, owner Owner, holder Holder, enc string, cek []byte) (Ticket, error) {
	return t.begin(owner, Direct, func() (secret, boundary.Level, error) {
		if holder != nil {
			ref, err := holder.Hold(ctx, enc, cek)
			if err == nil || !errors.Is(err, boundary.ErrUnsupported) {
				return contentKey{holder, ref, enc}, "", err
			}
		}
		ref, err := t.host.Hold(ctx, enc, cek)
		return contentKey{t.host, ref, enc}, Host, err
	})
}

// Ephemeral begins an exchange whose reply is sealed to a key made for it, and
// returns the public half. algs and encs are what the reply may be sealed with.
func (t *Table) Ephemeral(owner Owner, curve string, algs, encs []string) (Ticket, *ecdh.PublicKey, error) {
	var public *ecdh.PublicKey
	ticket, err := t.begin(owner, Ephemeral, func() (s secret, _ boundary.Level, err error) {
		s, public, err = newEphemeral(t.vault, curve, algs, encs)
		return s, Host, err
	})
	return ticket, public, err
}

// begin makes room first, then the secret.
func (t *Table) begin(owner Owner, kind string, build func() (secret, boundary.Level, error)) (Ticket, error) {
	if err := t.reserve(owner); err != nil {
		return Ticket{}, err
	}
	s, held, err := build()
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.unreserve(owner)
		t.live.Done()
		return Ticket{}, fmt.Errorf("beginning an exchange: %w", err)
	}
	e := &entry{Ticket: Ticket{ID: t.boot + "-" + random(idBytes), Kind: kind, Expires: time.Now().Add(t.cfg.TTL).UTC(), Held: held},
		Owner: owner, secret: s, turn: newTurn()}
	t.open[e.ID] = e
	e.timer = time.AfterFunc(t.cfg.TTL, func() { t.finish(context.Background(), e, Expired) })
	if t.closed { // while it was being begun
		go t.finish(context.Background(), e, Stopped)
		return Ticket{}, errStopped
	}
	return e.Ticket, nil
}

func newTurn() chan struct{} {
	turn := make(chan struct{}, 1)
	turn <- struct{}{}
	return turn
}

func (t *Table) reserve(owner Owner) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return errStopped
	case t.each[owner.Partner] >= t.cfg.PerPartner:
		return fmt.Errorf("%w: %d with %s", ErrFull, t.cfg.PerPartner, owner.Partner)
	case t.counts[owner] >= t.cfg.PerUser:
		return fmt.Errorf("%w: %d with %s by this user", ErrFull, t.cfg.PerUser, owner.Partner)
	}
	t.counts[owner]++
	t.each[owner.Partner]++
	t.live.Add(1)
	return nil
}

func (t *Table) unreserve(owner Owner) {
	if t.counts[owner]--; t.counts[owner] == 0 {
		delete(t.counts, owner)
	}
	if t.each[owner.Partner]--; t.each[owner.Partner] == 0 {
		delete(t.each, owner.Partner)
	}
}

// Drop ends an exchange whose request does not leave after all.
func (t *Table) Drop(ctx context.Context, owner Owner, id string) {
	if e, err := t.find(owner, id); err == nil {
		t.finish(ctx, e, Dropped)
	}
}

// finish ends an exchange, if nobody else does, once it is in nobody's use.
func (t *Table) finish(ctx context.Context, e *entry, how string) {
	if t.take(e) {
		<-e.turn
		t.forget(ctx, e, how)
		e.turn <- struct{}{}
	}
}

// take takes an exchange out of the table. One caller alone gets it.
func (t *Table) take(e *entry) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[e.ID] != e {
		return false
	}
	delete(t.open, e.ID)
	t.unreserve(e.Owner)
	e.timer.Stop()
	return true
}

// forget has the turn of an exchange that was taken out.
func (t *Table) forget(ctx context.Context, e *entry, how string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWithin)
	defer cancel()
	failed := e.secret.forget(ctx)
	t.live.Done()
	if t.cfg.Over != nil {
		t.cfg.Over(Ended{e.Ticket, e.Owner, how, failed})
	}
}

func (t *Table) isOpen(e *entry) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open[e.ID] == e
}

// find looks an exchange up. To anybody but its owner it is as unknown as one
// that never was.
func (t *Table) find(owner Owner, id string) (*entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.open[id]; e != nil && e.Owner == owner {
		return e, nil
	}
	boot, rest, _ := strings.Cut(id, "-")
	if isHex(boot, bootBytes) && isHex(rest, idBytes) && boot != t.boot {
		return nil, fmt.Errorf("%w: it was begun before keyd was restarted", ErrLost)
	}
	return nil, ErrUnknown
}

func isHex(s string, bytes int) bool {
	return len(s) == 2*bytes && strings.Trim(s, "0123456789abcdef") == ""
}

// Count is how many exchanges are open with each partner that has any.
func (t *Table) Count() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	counts := map[string]int{}
	for _, e := range t.open {
		counts[e.Partner]++
	}
	return counts
}

// Close ends every exchange and wipes what is held. An opening that is under
// way is waited for until ctx ends.
func (t *Table) Close(ctx context.Context) error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.stop(ctx)
		t.live.Wait()
	}()
	select {
	case <-done:
		return t.vault.close()
	case <-ctx.Done():
		return fmt.Errorf("an exchange is still in use: %w", ctx.Err()) // and what is held stays where it is used
	}
}

// stop ends what is open until nothing is, also what was being begun.
func (t *Table) stop(ctx context.Context) {
	for {
		t.mu.Lock()
		var next *entry
		for _, e := range t.open {
			next = e
			break
		}
		t.mu.Unlock()
		if next == nil {
			return
		}
		t.finish(ctx, next, Stopped)
	}
}
