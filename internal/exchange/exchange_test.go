package exchange_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"keyd/internal/boundary"
	"keyd/internal/exchange"
	"keyd/internal/jwe"
	"keyd/internal/rotation/backendtest"
)

func TestAReplyUnderTheRequestsKeyOpensOnce(t *testing.T) {
	for _, enc := range encs {
		for name, holder := range map[string]exchange.Holder{"in the backend": memoryToken(), "in keyd": nil} {
			tab := newTable(t)
			ticket, cek := tab.seal(owner, holder, enc)
			compact := reply(t, cek, enc, "statement")
			tab.opens(owner, ticket.ID, compact, "statement")
			tab.refuses(owner, ticket.ID, compact, exchange.ErrUnknown)
			if how := tab.ends.how(); !slices.Equal(how, []string{exchange.Answered}) {
				t.Errorf("%s, %s: ended with %q", enc, name, how)
			}
			if n := tab.Count(); len(n) != 0 {
				t.Errorf("%s, %s: still open: %v", enc, name, n)
			}
		}
	}
}

func TestTheTicketSaysWhereTheKeyIsAndForHowLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable(t)
		for holder, want := range map[exchange.Holder]boundary.Level{memoryToken(): "", nil: exchange.Host} {
			ticket, cek := tab.seal(owner, holder, boundary.A256GCM)
			if ticket.Held != want || ticket.Kind != exchange.Direct || !ticket.Expires.Equal(time.Now().Add(ttl)) || len(ticket.ID) != 41 {
				t.Errorf("got %+v, held at %q", ticket, want)
			}
			got, err := tab.Open(t.Context(), owner, ticket.ID, most, reply(t, cek, boundary.A256GCM, "x"))
			if err != nil || want == exchange.Host && got[0].Level != exchange.Host || want == "" && !got[0].Level.AtLeast("") {
				t.Errorf("opened at %+v, %v", got, err)
			}
		}
		if exchange.Host.AtLeast("") {
			t.Error("the host's memory reaches a floor")
		}
	})
}

// A backend that cannot hold keys is not one that cannot now.
func TestABackendThatCannotHoldKeysIsStoodInFor(t *testing.T) {
	tab := newTable(t)
	token := memoryToken()
	token.Inject(backendtest.Fault{Op: "hold", Err: boundary.ErrUnsupported})
	ticket, cek := tab.seal(owner, token, boundary.A256GCM)
	if ticket.Held != exchange.Host {
		t.Errorf("got %+v", ticket)
	}
	tab.opens(owner, ticket.ID, reply(t, cek, boundary.A256GCM, "x"), "x")

	token.Inject(backendtest.Fault{Op: "hold", Err: boundary.ErrUnavailable})
	if _, err := tab.Direct(t.Context(), owner, token, boundary.A256GCM, cek); !errors.Is(err, boundary.ErrUnavailable) {
		t.Errorf("Direct while the backend is down: %v", err)
	}
	for range 4 { // what failed takes no room
		tab.seal(owner, nil, boundary.A256GCM)
	}
}

func TestAnExchangeIsNobodyElses(t *testing.T) {
	tab := newTable(t)
	ticket, cek := tab.seal(owner, nil, boundary.A256GCM)
	compact := reply(t, cek, boundary.A256GCM, "x")
	for _, other := range []exchange.Owner{{Partner: "wise", UID: 1001}, {Partner: "venly", UID: 1000}, {}} {
		tab.refuses(other, ticket.ID, compact, exchange.ErrUnknown)
		tab.Drop(t.Context(), other, ticket.ID)
	}
	for _, id := range []string{"", "x", ticket.ID + "0", ticket.ID[:40], strings.ToUpper(ticket.ID), strings.Repeat("0", 41), ticket.ID[:9] + strings.Repeat("0", 32)} {
		tab.refuses(owner, id, compact, exchange.ErrUnknown)
	}
	tab.opens(owner, ticket.ID, compact, "x")
}

func TestARestartLosesExchangesAndSaysSo(t *testing.T) {
	before := newTable(t)
	ticket, cek := before.seal(owner, nil, boundary.A256GCM)
	after := newTable(t)
	after.refuses(owner, ticket.ID, reply(t, cek, boundary.A256GCM, "x"), exchange.ErrLost)
	after.refuses(exchange.Owner{}, ticket.ID, nil, exchange.ErrLost)

	// A token that was restarted has forgotten what it held.
	token := memoryToken()
	ticket, cek = after.seal(owner, token, boundary.A256GCM)
	token.Inject(backendtest.Fault{Op: "open-held", Err: boundary.ErrNoKey})
	after.refuses(owner, ticket.ID, reply(t, cek, boundary.A256GCM, "x"), exchange.ErrLost)
	after.refuses(owner, ticket.ID, reply(t, cek, boundary.A256GCM, "x"), exchange.ErrUnknown)
	if how := after.ends.how(); !slices.Equal(how, []string{exchange.Lost}) {
		t.Errorf("ended with %q", how)
	}
}

func TestAnExchangeThatHasNoReplyRunsOutOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable(t)
		token := memoryToken()
		ticket, cek := tab.seal(owner, token, boundary.A256GCM)
		compact := reply(t, cek, boundary.A256GCM, "x")
		late, _ := tab.seal(owner, nil, boundary.A256GCM)
		time.Sleep(ttl - time.Nanosecond)
		synctest.Wait()
		if how := tab.ends.how(); len(how) != 0 {
			t.Errorf("ended ahead of time with %q", how)
		}
		tab.opens(owner, ticket.ID, compact, "x")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		tab.refuses(owner, late.ID, compact, exchange.ErrUnknown)
		if how := tab.ends.how(); !slices.Equal(how, []string{exchange.Answered, exchange.Expired}) {
			t.Errorf("ended with %q", how)
		}
		if n := token.Calls("release"); n != 1 {
			t.Errorf("the token was asked %d times to release a key, want once", n)
		}
	})
}

// slow is a holder that takes its time over opening.
type slow struct {
	exchange.Holder
	takes  time.Duration
	opened atomic.Pointer[boundary.Opened]
}

func (s *slow) OpenHeld(ctx context.Context, ref string, env *boundary.Envelope) (*boundary.Opened, error) {
	time.Sleep(s.takes)
	got, err := s.Holder.OpenHeld(ctx, ref, env)
	s.opened.Store(got)
	return got, err
}

func TestAReplyThatIsStillBeingOpenedWhenTheTimeRunsOutIsNotGivenOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable(t)
		token := &slow{Holder: memoryToken(), takes: time.Second}
		ticket, cek := tab.seal(owner, token, boundary.A256GCM)
		compact := reply(t, cek, boundary.A256GCM, "secret")
		time.Sleep(ttl - time.Millisecond)
		tab.refuses(owner, ticket.ID, compact, exchange.ErrUnknown)
		synctest.Wait()
		if how := tab.ends.how(); !slices.Equal(how, []string{exchange.Expired}) {
			t.Errorf("ended with %q", how)
		}
		if got := token.opened.Load(); got == nil || bytes.Contains(got.Plaintext, []byte("secret")) {
			t.Errorf("the plaintext was not wiped: %v", got)
		}
	})
}

func TestOfManyAtTheSameTimeOneGetsTheReply(t *testing.T) {
	for _, holder := range []exchange.Holder{memoryToken(), nil} {
		tab := newTable(t)
		ticket, cek := tab.seal(owner, holder, boundary.A256GCM)
		compact := reply(t, cek, boundary.A256GCM, "x")
		var got atomic.Int32
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				opened, err := tab.Open(t.Context(), owner, ticket.ID, most, compact)
				switch {
				case err == nil && string(opened[0].Plaintext) == "x":
					got.Add(1)
				case !errors.Is(err, exchange.ErrUnknown):
					t.Errorf("got %v, %v", opened, err)
				}
			})
		}
		all.Wait()
		if n := got.Load(); n != 1 {
			t.Errorf("%d got it", n)
		}
	}
}

func TestWhoeverWaitsForATurnCanGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable(t)
		token := &slow{Holder: memoryToken(), takes: time.Minute}
		ticket, cek := tab.seal(owner, token, boundary.A256GCM)
		compact := reply(t, cek, boundary.A256GCM, "x")
		go func() { _, _ = tab.Open(context.Background(), owner, ticket.ID, most, compact) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := tab.Open(ctx, owner, ticket.ID, most, compact); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// What is refused in plain sight costs the exchange nothing; what does not open
// costs it one of a few tries.
func TestAFewRepliesThatDoNotOpenEndAnExchange(t *testing.T) {
	for name, holder := range map[string]exchange.Holder{"in the backend": memoryToken(), "in keyd": nil} {
		t.Run(name, func(t *testing.T) {
			tab := newTable(t)
			ticket, cek := tab.seal(owner, holder, boundary.A256GCM)
			good := reply(t, cek, boundary.A256GCM, "x")
			rsaKey := jose.Recipient{Algorithm: jose.RSA_OAEP_256, Key: &theirs().PublicKey}
			for range 10 {
				tab.refuses(owner, ticket.ID, []byte(`{"error":"x"}`), jwe.ErrMalformed)
				tab.refuses(owner, ticket.ID, sealed(t, rsaKey, boundary.A256GCM, "x"), jwe.ErrAlgorithm)
				tab.refuses(owner, ticket.ID, reply(t, make([]byte, 16), boundary.A128GCM, "x"), jwe.ErrAlgorithm)
			}
			if _, err := tab.Open(t.Context(), owner, ticket.ID, 10, good); !errors.Is(err, jwe.ErrTooLarge) {
				t.Errorf("more than is allowed: %v", err)
			}
			bad := reply(t, make([]byte, 32), boundary.A256GCM, "x")
			tab.refuses(owner, ticket.ID, bad, boundary.ErrOpen)
			tab.refuses(owner, ticket.ID, bad, boundary.ErrOpen)
			tab.opens(owner, ticket.ID, good, "x")

			ticket, cek = tab.seal(owner, holder, boundary.A256GCM)
			for range 3 {
				tab.refuses(owner, ticket.ID, bad, boundary.ErrOpen)
			}
			tab.refuses(owner, ticket.ID, reply(t, cek, boundary.A256GCM, "x"), exchange.ErrUnknown)
			if how := tab.ends.how(); !slices.Equal(how, []string{exchange.Answered, exchange.Spent}) {
				t.Errorf("ended with %q", how)
			}
		})
	}
}

func TestABackendThatIsDownNowLeavesTheExchangeOpen(t *testing.T) {
	tab := newTable(t)
	token := memoryToken()
	ticket, cek := tab.seal(owner, token, boundary.A256GCM)
	compact := reply(t, cek, boundary.A256GCM, "x")
	for range 10 {
		token.Inject(backendtest.Fault{Op: "open-held", Err: boundary.ErrBusy})
		tab.refuses(owner, ticket.ID, compact, boundary.ErrBusy)
	}
	tab.opens(owner, ticket.ID, compact, "x")
}

func TestAKeyThatTheBackendDoesNotForgetIsTold(t *testing.T) {
	tab := newTable(t)
	token := memoryToken()
	ticket, cek := tab.seal(owner, token, boundary.A256GCM)
	token.Inject(backendtest.Fault{Op: "release", Err: boundary.ErrUnavailable})
	tab.opens(owner, ticket.ID, reply(t, cek, boundary.A256GCM, "x"), "x")
	if all := tab.ends.all; len(all) != 1 || !errors.Is(all[0].Failed, boundary.ErrUnavailable) || all[0].ID != ticket.ID || all[0].Owner != owner {
		t.Errorf("told %+v", all)
	}
}

func TestExchangesAreBounded(t *testing.T) {
	tab := newTable(t)
	other := exchange.Owner{Partner: "wise", UID: 1001}
	third := exchange.Owner{Partner: "wise", UID: 1002}
	full := func(owner exchange.Owner, says string) {
		t.Helper()
		_, err := tab.Direct(t.Context(), owner, nil, boundary.A256GCM, make([]byte, 32))
		if !errors.Is(err, exchange.ErrFull) || !strings.Contains(err.Error(), says) {
			t.Errorf("Direct: %v, want ErrFull that says %q", err, says)
		}
		if _, _, err = tab.Ephemeral(owner, "P-256", algs, encs); !errors.Is(err, exchange.ErrFull) {
			t.Errorf("Ephemeral: %v, want ErrFull", err)
		}
	}
	first, cek := tab.seal(owner, nil, boundary.A256GCM)
	for range 3 {
		tab.seal(owner, nil, boundary.A256GCM)
	}
	full(owner, "4 with wise by this user")
	for range 4 {
		tab.seal(other, memoryToken(), boundary.A256GCM)
	}
	full(third, "8 with wise")
	if d := cmp.Diff(map[string]int{"wise": 8}, tab.Count()); d != "" {
		t.Error(d)
	}
	for range 4 {
		tab.seal(exchange.Owner{Partner: "venly", UID: 1000}, nil, boundary.A256GCM)
	}
	tab.opens(owner, first.ID, reply(t, cek, boundary.A256GCM, "x"), "x")
	second, _ := tab.seal(third, nil, boundary.A256GCM)
	tab.Drop(t.Context(), third, second.ID)
	tab.seal(owner, nil, boundary.A256GCM)
}

func TestKeysOfTheWrongLengthAreNotHeld(t *testing.T) {
	tab := newTable(t)
	for enc, size := range map[string]int{boundary.A256GCM: 16, boundary.A128GCM: 32, "A256KW": 32, boundary.A256CBCHS512: 0} {
		if ticket, err := tab.Direct(t.Context(), owner, nil, enc, make([]byte, size)); err == nil {
			t.Errorf("%d bytes for %s: got %+v", size, enc, ticket)
		}
	}
	if n := tab.Count(); len(n) != 0 {
		t.Errorf("open: %v", n)
	}
}

func TestATableMustBeBounded(t *testing.T) {
	for _, cfg := range []exchange.Config{{}, {TTL: ttl}, {TTL: ttl, PerPartner: 1}, {PerPartner: 1, PerUser: 1}, {TTL: ttl, PerPartner: 1, PerUser: 1, Partners: -1}} {
		if _, err := exchange.New(cfg); err == nil {
			t.Errorf("%+v makes a table", cfg)
		}
	}
}
