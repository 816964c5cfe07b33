package partner

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	maxToken     = 64 << 10         // Wise says not to assume a size; a header has to end somewhere
	maxTokenLife = 24 * time.Hour   // twice what Wise documents
	unstatedLife = 5 * time.Minute  // of a token that does not say
	firstHold    = time.Minute      // after credentials were refused
	longestHold  = 15 * time.Minute // doubled up to this
)

// tokenSource holds the access token. It never leaves memory, and nothing is
// assumed about its form: Wise is moving from UUIDs to long JWTs.
type tokenSource struct {
	exchange *exchange
	clientID string
	secret   func() ([]byte, error)
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

// hold keeps a refusal, so that it is not asked for again and again: a token
// endpoint locks clients out.
type hold struct {
	until       time.Time
	err         *Error
	credentials [sha256.Size]byte // the refused ones; others may try at once
	refusals    int               // in a row
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
	basic, secrets, err := s.credentials()
	if err != nil {
		return token{}, s.exchange.failed(call{op: opToken}, &answer{}, fmt.Errorf("%w: reading the client secret: %w", ErrCredentials, err))
	}
	sum := sha256.Sum256([]byte(basic))
	if err := s.hold.check(time.Now(), sum); err != nil {
		return token{}, err
	}
	asked := time.Now()
	var fresh token
	err = s.exchange.do(ctx, call{
		op:     opToken,
		method: http.MethodPost,
		path:   "/oauth/token",
		header: http.Header{
			"Authorization": {"Basic " + basic},
			"Content-Type":  {"application/x-www-form-urlencoded"},
			"Accept":        {"application/json"},
		},
		body:    []byte(url.Values{"grant_type": {"client_credentials"}}.Encode()),
		want:    []int{http.StatusOK},
		refused: map[int]error{http.StatusBadRequest: ErrCredentials, http.StatusUnauthorized: ErrCredentials},
		secrets: secrets,
		read: func(a *answer) (err error) {
			fresh, err = readToken(a.body, asked)
			return err
		},
	})
	s.hold.note(err, time.Now(), sum)
	if err == nil {
		s.logger.DebugContext(ctx, "new access token", "expires", fresh.expires, "renew_at", fresh.renewAt)
	}
	return fresh, err
}

// credentials returns the Basic credentials and everything in them that no
// error may show. RFC 6749 §2.3.1: both halves are form-encoded first. The
// header and what is compared with it are Go strings, which cannot be wiped;
// they are dropped with the call.
func (s *tokenSource) credentials() (basic string, secrets []string, err error) {
	secret, err := s.secret()
	defer clear(secret)
	if err != nil {
		return "", nil, err
	}
	if len(secret) == 0 {
		return "", nil, errors.New("it is empty")
	}
	encoded := url.QueryEscape(string(secret))
	pair := url.QueryEscape(s.clientID) + ":" + encoded
	basic = base64.StdEncoding.EncodeToString([]byte(pair))
	return basic, []string{basic, encoded, string(secret)}, nil
}

// readToken reads a token answer. What is wrong with it is not quoted: the
// body is the secret.
func readToken(body []byte, asked time.Time) (token, error) {
	var t struct {
		AccessToken string      `json:"access_token"`
		TokenType   string      `json:"token_type"`
		ExpiresIn   json.Number `json:"expires_in"`
		ExpiresAt   time.Time   `json:"expires_at"`
	}
	if json.Unmarshal(body, &t) != nil {
		return token{}, fmt.Errorf("%w: the token answer cannot be read", ErrAnswer)
	}
	switch {
	case t.AccessToken == "":
		return token{}, fmt.Errorf("%w: no access_token", ErrAnswer)
	case len(t.AccessToken) > maxToken:
		return token{}, fmt.Errorf("%w: an access_token of %d bytes", ErrAnswer, len(t.AccessToken))
	case strings.ContainsFunc(t.AccessToken, func(r rune) bool { return r <= ' ' || r > '~' }):
		return token{}, fmt.Errorf("%w: an access_token that cannot stand in a header", ErrAnswer)
	case !strings.EqualFold(t.TokenType, "bearer"):
		return token{}, fmt.Errorf("%w: the token_type is not bearer", ErrAnswer)
	}
	life := unstatedLife
	if seconds, err := t.ExpiresIn.Int64(); err == nil {
		life = time.Duration(min(max(seconds, 0), int64(maxTokenLife/time.Second))) * time.Second
	} else if !t.ExpiresAt.IsZero() {
		life = min(t.ExpiresAt.Sub(asked), maxTokenLife)
	}
	if life <= 0 {
		return token{}, fmt.Errorf("%w: an access_token that has already expired", ErrAnswer)
	}
	// Counted from before the request, so that we are always early. A tenth of
	// the life is kept for trying again, and at least a minute where there is
	// one.
	early := min(max(life/10, time.Minute), life/2)
	return token{value: t.AccessToken, renewAt: asked.Add(life - early), expires: asked.Add(life)}, nil
}

// check returns the last refusal while it holds.
func (h *hold) check(now time.Time, credentials [sha256.Size]byte) error {
	if h.err == nil || !now.Before(h.until) {
		return nil
	}
	if errors.Is(h.err, ErrCredentials) && credentials != h.credentials {
		return nil
	}
	e := *h.err
	e.retryAfter = h.until.Sub(now)
	return &e
}

// note remembers what the token endpoint said.
func (h *hold) note(err error, now time.Time, credentials [sha256.Size]byte) {
	e, ok := errors.AsType[*Error](err)
	switch {
	case ok && errors.Is(e, ErrCredentials):
		if credentials != h.credentials {
			h.refusals = 0
		}
		wait := min(firstHold<<min(h.refusals, 8), longestHold)
		e.retryAfter = max(e.retryAfter, wait)
		*h = hold{until: now.Add(e.retryAfter), err: e, credentials: credentials, refusals: h.refusals + 1}
	case ok && e.retryAfter > 0:
		*h = hold{until: now.Add(e.retryAfter), err: e, credentials: h.credentials, refusals: h.refusals}
	case err == nil:
		*h = hold{}
	}
}
