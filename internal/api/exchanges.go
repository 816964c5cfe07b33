package api

import (
	"context"
	"crypto/ecdh"
	"errors"
	"fmt"
	"time"

	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/exchange"
	"keyd/internal/jwe"
)

// ExchangeLimits bounds the exchanges that are open at a time.
type ExchangeLimits struct {
	TTL        time.Duration // how long one waits for its reply
	PerPartner int
	PerUser    int // of each partner
}

// The audit log's words for what becomes of an exchange besides its reply,
// which is a decrypt like any.
const (
	actionBegin = "exchange.begin"
	actionEnd   = "exchange.end"
)

// keepExchanges makes the table. Partners that have none take up no memory.
func (o *Opener) keepExchanges() (err error) {
	partners := 0
	for i := range o.cfg.Partners {
		if o.cfg.Partners[i].hasExchanges() {
			partners++
		}
	}
	l := o.cfg.Exchanges
	o.exchanges, err = exchange.New(exchange.Config{TTL: l.TTL, PerPartner: l.PerPartner, PerUser: l.PerUser, Partners: partners, Over: o.exchangeOver})
	return err
}

// Close ends the exchanges that are open. Openings are over by then.
func (o *Opener) Close(ctx context.Context) error { return o.exchanges.Close(ctx) }

// BeginDirect begins the exchange of a request that was sealed under cek, which
// the caller wipes. backend is where the partner's keys are.
func (o *Opener) BeginDirect(ctx context.Context, actor audit.Actor, partner, backend, enc string, cek []byte) (exchange.Ticket, error) {
	holder, _ := o.cfg.Backends[backend].(exchange.Holder) // nil is keyd's own memory
	ticket, err := o.exchanges.Direct(ctx, exchange.Owner{Partner: partner, UID: actor.UID}, holder, enc, cek)
	if err != nil {
		o.cfg.Meters.exchanged(partner, exchange.Direct, "refused")
		return exchange.Ticket{}, holdFailure(err)
	}
	return ticket, o.began(ctx, actor, partner, ticket)
}

// BeginEphemeral begins the exchange of a request whose reply is sealed to a key
// made for it, and returns the public half.
func (o *Opener) BeginEphemeral(ctx context.Context, actor audit.Actor, p *Partner, curve string) (exchange.Ticket, *ecdh.PublicKey, error) {
	ticket, public, err := o.exchanges.Ephemeral(exchange.Owner{Partner: p.Name, UID: actor.UID}, curve, p.Algs, p.Encs)
	if err != nil {
		o.cfg.Meters.exchanged(p.Name, exchange.Ephemeral, "refused")
		return exchange.Ticket{}, nil, holdFailure(err)
	}
	return ticket, public, o.began(ctx, actor, p.Name, ticket)
}

// Drop ends an exchange whose request does not leave after all.
func (o *Opener) Drop(ctx context.Context, actor audit.Actor, partner, id string) {
	o.exchanges.Drop(ctx, exchange.Owner{Partner: partner, UID: actor.UID}, id)
}

// holdFailure tells a fault of the backend's own.
func holdFailure(err error) error {
	if errors.Is(err, exchange.ErrFull) {
		return err
	}
	return backendFailure(err)
}

// began records an exchange. One that cannot be recorded is no exchange.
func (o *Opener) began(ctx context.Context, actor audit.Actor, partner string, ticket exchange.Ticket) error {
	o.cfg.Meters.exchanged(partner, ticket.Kind, "begun")
	if o.cfg.Decrypts != AuditAll {
		return nil
	}
	e := audit.Entry{Phase: audit.PhaseEvent, Action: actionBegin, Actor: actor, Partner: partner, Result: audit.ResultOK,
		Detail: map[string]string{"exchange": ticket.ID, "kind": ticket.Kind, "expires": ticket.Expires.Format(time.RFC3339)}}
	if ticket.Held != "" {
		e.Detail["boundary"] = string(ticket.Held)
	}
	if id := requestIDFrom(ctx); id != "" {
		e.Detail["request"] = id
	}
	if err := o.audit.Record(context.WithoutCancel(ctx), e); err != nil {
		o.Drop(ctx, actor, partner, ticket.ID)
		return fmt.Errorf("%w: %w", ErrAudit, err)
	}
	return nil
}

// exchangeOver is told of every exchange that ended. What ended it with a reply
// has an entry of its own.
func (o *Opener) exchangeOver(over exchange.Ended) {
	o.cfg.Meters.exchanged(over.Partner, over.Kind, over.How)
	if over.Failed != nil {
		o.cfg.Logger.Warn("a backend did not forget the content key of an exchange; it goes with the backend's session", "partner", over.Partner, "exchange", over.ID, "err", over.Failed)
	}
	if over.How == exchange.Answered || o.cfg.Decrypts == AuditOff {
		return
	}
	e := audit.Entry{Phase: audit.PhaseEvent, Action: actionEnd, Actor: audit.System, Partner: over.Partner, Result: audit.ResultFailed, Code: "exchange_" + over.How,
		Detail: map[string]string{"exchange": over.ID, "kind": over.Kind}}
	if err := o.audit.Record(context.Background(), e); err != nil {
		o.cfg.Logger.Error("the end of an exchange could not be recorded", "partner", over.Partner, "exchange", over.ID, "err", err)
	}
}

// OpenReply opens the reply of an exchange, which is over with it: an envelope
// or, of a reply whose values are sealed each by itself, all of them. Whatever
// comes of it is recorded first, as in Open.
func (o *Opener) OpenReply(ctx context.Context, actor audit.Actor, partner, id string, compacts ...[]byte) ([]*Opened, error) {
	start := time.Now()
	a := o.attempt(partner)
	a.exchange = id
	opened, err := o.openReply(ctx, actor, &a, compacts)
	if recorded := o.record(ctx, actor, &a, err); recorded != nil {
		wipe(opened)
		err = recorded
	}
	o.cfg.Meters.opened(&a, err, time.Since(start))
	if err != nil {
		return nil, err
	}
	return opened, nil
}

func wipe(all []*Opened) {
	for _, opened := range all {
		clear(opened.Plaintext)
	}
}

func (o *Opener) openReply(ctx context.Context, actor audit.Actor, a *attempt, compacts [][]byte) ([]*Opened, error) {
	if a.partner == "" {
		return nil, fmt.Errorf("%w: no such partner", errNotFound)
	}
	opened, err := o.exchanges.Open(ctx, exchange.Owner{Partner: a.partner, UID: actor.UID}, a.exchange, o.cfg.MaxEnvelope, compacts...)
	a.spent = err == nil || errors.Is(err, boundary.ErrOpen)
	switch {
	case err == nil:
		all := make([]*Opened, 0, len(opened))
		for _, one := range opened {
			a.level, a.inToken = one.Level, a.inToken+one.InToken
			all = append(all, &Opened{Plaintext: one.Plaintext, Level: one.Level})
		}
		return all, nil
	case errors.Is(err, jwe.ErrAlgorithm):
		return nil, fmt.Errorf("%w: %w", errOtherReply, err)
	case errors.Is(err, jwe.ErrMalformed), errors.Is(err, jwe.ErrTooLarge), errors.Is(err, exchange.ErrUnknown), errors.Is(err, exchange.ErrLost):
		return nil, err
	}
	return nil, backendFailure(err)
}
