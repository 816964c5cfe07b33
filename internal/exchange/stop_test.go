package exchange_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/exchange"
)

func TestStoppingEndsWhatIsOpenAndBeginsNothingMore(t *testing.T) {
	tab := newTable(t)
	token := memoryToken()
	tab.seal(owner, token, boundary.A256GCM)
	ticket, cek := tab.seal(owner, nil, boundary.A256GCM)
	if err := tab.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if how := tab.ends.how(); !slices.Equal(how, []string{exchange.Stopped, exchange.Stopped}) || token.Calls("release") != 1 {
		t.Errorf("ended with %q", how)
	}
	tab.refuses(owner, ticket.ID, reply(t, cek, boundary.A256GCM, "x"), exchange.ErrUnknown)
	if _, err := tab.Direct(t.Context(), owner, nil, boundary.A256GCM, make([]byte, 32)); err == nil {
		t.Error("an exchange was begun after the end")
	}
}

// late is a holder that has the table closed while it holds a key.
type late struct {
	exchange.Holder
	close func()
}

func (l *late) Hold(ctx context.Context, enc string, cek []byte) (string, error) {
	l.close()
	return l.Holder.Hold(ctx, enc, cek)
}

func TestStoppingWaitsForWhatIsBeingBegun(t *testing.T) {
	tab := newTable(t)
	token := memoryToken()
	done := make(chan error, 1)
	holder := &late{token, func() {
		go func() { done <- tab.Close(context.Background()) }()
		for !tab.stopped() {
			time.Sleep(time.Millisecond)
		}
	}}
	if ticket, err := tab.Direct(t.Context(), owner, holder, boundary.A256GCM, make([]byte, 32)); err == nil {
		t.Errorf("got %+v", ticket)
	}
	if err := <-done; err != nil {
		t.Errorf("Close: %v", err)
	}
	if n := token.Calls("release"); n != 1 {
		t.Errorf("the token was asked %d times to release the key, want once", n)
	}
}

// stopped reports whether nothing can be begun any more.
func (tab *table) stopped() bool {
	ticket, _, err := tab.Ephemeral(exchange.Owner{Partner: "probe"}, "P-256", algs, encs)
	if err == nil {
		tab.Drop(context.Background(), exchange.Owner{Partner: "probe"}, ticket.ID)
	}
	return err != nil
}

func TestStoppingDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := &ends{}
		tab, err := exchange.New(exchange.Config{TTL: ttl, PerPartner: 1, PerUser: 1, Partners: 1, Over: over.add})
		if err != nil {
			t.Fatal(err)
		}
		token := &slow{Holder: memoryToken(), takes: time.Hour}
		ticket, cek := (&table{tab, t, over}).seal(owner, token, boundary.A256GCM)
		go func() {
			_, _ = tab.Open(context.Background(), owner, ticket.ID, most, reply(t, cek, boundary.A256GCM, "x"))
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := tab.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: %v", err)
		}
		time.Sleep(time.Hour) // the goroutines end when the token does answer
	})
}
