package partner

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	maxToken     = 64 << 10        // Wise says not to assume a size; a header has to end somewhere
	maxTokenLife = 24 * time.Hour  // twice what Wise documents
	unstatedLife = 5 * time.Minute // of a token that does not say
)

// tokenSource holds keyd's own access token at a partner. It never leaves
// memory, and nothing is assumed about its form: Wise is moving from UUIDs to
// long JWTs.
type tokenSource struct {
	exchange *exchange
	ask      func(context.Context) (grant, error)
	form     tokenForm
	logger   *slog.Logger

	mu      sync.Mutex
	current token       // guarded by mu
	flight  *tokenFetch // guarded by mu; nil when none is under way

	hold hold // touched by the one fetch under way only
}

// token is an access token and when to leave it.
type token struct {
	value   string
	renewAt time.Time
	expires time.Time
}

// tokenFetch is one request for a token that any number of callers wait for.
type tokenFetch struct {
	done  chan struct{}
	value string
	err   error
}

// get returns a token that is good for some time yet.
func (s *tokenSource) get(ctx context.Context) (string, error) {
	s.mu.Lock()
	if time.Now().Before(s.current.renewAt) {
		defer s.mu.Unlock()
		return s.current.value, nil
	}
	f := s.flight
	if f == nil {
		f = &tokenFetch{done: make(chan struct{})}
		s.flight = f
		// Not the caller's deadline: others wait for the same answer. The
		// exchange has a timeout of its own.
		go s.run(context.WithoutCancel(ctx), f)
	}
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		err := context.Cause(ctx)
		return "", &Error{Partner: s.exchange.partner, Op: opToken, temporary: true,
			cause: &cause{text: clean(err.Error(), nil), err: err}}
	}
}

// run fetches a token and hands it to everyone who waits.
func (s *tokenSource) run(ctx context.Context, f *tokenFetch) {
	fresh, err := s.fetch(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.current = fresh
	} else if time.Now().Before(s.current.expires) {
		// Renewal is early so that it may fail.
		s.logger.WarnContext(ctx, "renewing the access token failed, the old one still works", "err", err)
		err = nil
	}
	if err == nil {
		f.value = s.current.value
	}
	f.err = err
	s.flight = nil
	close(f.done)
}

// authorized makes a call with the token. After a 401 it is dropped, another is
// fetched, and the call repeated once.
func (s *tokenSource) authorized(ctx context.Context, x *exchange, c call) error {
	for repeated := false; ; repeated = true {
		token, err := s.get(ctx)
		if err != nil {
			return err
		}
		c.header.Set("Authorization", "Bearer "+token)
		c.secrets = []string{token}
		err = x.do(ctx, c)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Status != http.StatusUnauthorized || repeated {
			return err
		}
		s.drop(token)
		s.logger.InfoContext(ctx, "the access token was refused, asking for another", "op", c.op)
	}
}

// drop forgets a token that an API call was refused with. A newer one stays.
func (s *tokenSource) drop(value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current.value == value {
		s.current = token{}
	}
}

// fetch asks for a token with the client credentials grant (RFC 6749 §4.4).
func (s *tokenSource) fetch(ctx context.Context) (token, error) {
	g, err := s.ask(ctx)
	if err != nil {
		return token{}, s.exchange.failed(call{op: opToken}, &answer{}, err)
	}
	if err := s.hold.check(time.Now(), g.credentials); err != nil {
		return token{}, err
	}
	asked := time.Now()
	var fresh token
	err = s.exchange.do(ctx, call{
		op:      opToken,
		method:  http.MethodPost,
		path:    g.path,
		header:  g.header,
		body:    g.body,
		want:    []int{http.StatusOK},
		refused: map[int]error{http.StatusBadRequest: ErrCredentials, http.StatusUnauthorized: ErrCredentials},
		secrets: g.secrets,
		read: func(a *answer) (err error) {
			fresh, err = s.form.read(a.body, asked)
			return err
		},
	})
	s.hold.note(err, time.Now(), g.credentials)
	if err == nil {
		s.logger.DebugContext(ctx, "new access token", "expires", fresh.expires, "renew_at", fresh.renewAt)
	}
	return fresh, err
}

// tokenForm is how a partner words the answer to a grant.
type tokenForm struct {
	// member is the name of the token in the answer, access_token when empty.
	member string
	// untyped: the answer need not say token_type.
	untyped bool
	// unstated is the life of a token that does not say, 5 min when 0.
	unstated time.Duration
	// early is how long before its end a token is renewed, at least; where a
	// tenth of its life is more, that. 1 min when 0.
	early time.Duration
}

// read reads a token answer. What is wrong with it is not quoted: the body is
// the secret.
func (f tokenForm) read(body []byte, asked time.Time) (token, error) {
	var t struct {
		TokenType string      `json:"token_type"`
		ExpiresIn json.Number `json:"expires_in"`
		ExpiresAt time.Time   `json:"expires_at"`
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(body, &t) != nil || json.Unmarshal(body, &members) != nil {
		return token{}, fmt.Errorf("%w: the token answer cannot be read", ErrAnswer)
	}
	member := cmp.Or(f.member, "access_token")
	var value string
	switch err := json.Unmarshal(members[member], &value); {
	case members[member] == nil, err == nil && value == "":
		return token{}, fmt.Errorf("%w: no %s", ErrAnswer, member)
	case err != nil:
		return token{}, fmt.Errorf("%w: the token answer cannot be read", ErrAnswer)
	case len(value) > maxToken:
		return token{}, fmt.Errorf("%w: an %s of %d bytes", ErrAnswer, member, len(value))
	case !isToken(value):
		return token{}, fmt.Errorf("%w: an %s that cannot stand in a header", ErrAnswer, member)
	case !strings.EqualFold(t.TokenType, "bearer") && (!f.untyped || t.TokenType != ""):
		return token{}, fmt.Errorf("%w: the token_type is not bearer", ErrAnswer)
	}
	life := cmp.Or(f.unstated, unstatedLife)
	if seconds, err := t.ExpiresIn.Int64(); err == nil {
		life = time.Duration(min(max(seconds, 0), int64(maxTokenLife/time.Second))) * time.Second
	} else if !t.ExpiresAt.IsZero() {
		life = min(t.ExpiresAt.Sub(asked), maxTokenLife)
	}
	if life <= 0 {
		return token{}, fmt.Errorf("%w: an %s that has already expired", ErrAnswer, member)
	}
	// Counted from before the request, so that we are always early. A tenth of
	// the life is kept for trying again.
	early := min(max(life/10, cmp.Or(f.early, time.Minute)), life/2)
	return token{value: value, renewAt: asked.Add(life - early), expires: asked.Add(life)}, nil
}
