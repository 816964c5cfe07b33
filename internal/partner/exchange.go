package partner

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// maxBody bounds every answer to a call of keyd's own. The largest documented one
// is a few kilobytes.
const maxBody = 1 << 20

// Media types.
const (
	joseType    = "application/jose+json"
	jsonType    = "application/json"
	problemType = "application/problem+json"
	formType    = "application/x-www-form-urlencoded"
)

// exchange makes HTTP calls to one partner and turns whatever goes wrong into
// an *Error.
type exchange struct {
	partner string
	base    string // no trailing slash
	client  *http.Client
	timeout time.Duration
	most    int // bytes of a business request's body, and of its answer's
	observe func(op string, status int, d time.Duration, err error)
	secrets []string // to be kept out of every error; the proxy's password
}

// at is the same to another URL of the partner's, such as its token endpoint.
func (x *exchange) at(base string) *exchange {
	other := *x
	other.base = base
	return &other
}

// call is one request and what is expected back.
type call struct {
	op, method, path string
	query            url.Values
	header           http.Header
	body             []byte
	// want are the statuses whose answer read is given; none is all of them.
	// Its error becomes the cause of the *Error; it may quote the partner, for
	// it is cleaned.
	want []int
	read func(*answer) error
	// refused gives the sentinel behind a status that is not wanted.
	refused map[int]error
	secrets []string
	own     []string // and those of keyd's own, which no answer may show a caller
	most    int      // bytes of the answer; maxBody when 0
	// quiet keeps the partner's own words out of errors: the request was a
	// caller's, and servers echo what they are sent.
	quiet bool
}

// answer is an HTTP answer that was read to its end.
type answer struct {
	status int
	header http.Header
	media  string // media type in lower case, without parameters
	body   []byte
}

// do makes the call once.
func (x *exchange) do(ctx context.Context, c call) error {
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, x.timeout,
		fmt.Errorf("no answer within %s: %w", x.timeout, context.DeadlineExceeded))
	defer cancel()
	a, err := x.send(ctx, c)
	if err == nil {
		err = c.judge(a)
	}
	var out error
	if err != nil {
		out = x.failed(c, a, err)
	}
	if x.observe != nil {
		x.observe(c.op, a.status, time.Since(start), out)
	}
	return out
}

// send returns what it has read of the answer along with any error.
func (x *exchange) send(ctx context.Context, c call) (*answer, error) {
	a := &answer{header: http.Header{}}
	target := x.base + c.path
	if len(c.query) > 0 {
		target += "?" + c.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, c.method, target, bytes.NewReader(c.body))
	if err != nil {
		return a, err
	}
	req.Header = c.header.Clone()
	// Set here, or net/http would ask for gzip by itself and Wise marks
	// identity as required on some endpoints.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "keyd")
	res, err := x.client.Do(req)
	if err != nil {
		// *url.Error only repeats method and URL, which Op already says.
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		return a, err
	}
	defer func() { _ = res.Body.Close() }() // what was read is judged by itself
	a.status, a.header = res.StatusCode, res.Header
	if a.status == http.StatusSwitchingProtocols { // its body is the connection, and no deadline ends it
		return a, fmt.Errorf("%w: a switch to another protocol", ErrAnswer)
	}
	if media, _, err := mime.ParseMediaType(res.Header.Get("Content-Type")); err == nil {
		a.media = media
	}
	a.body, err = io.ReadAll(io.LimitReader(res.Body, int64(c.largest())+1))
	// A refusal is a refusal, however much of its body arrived.
	if err != nil && c.wants(a.status) {
		return a, fmt.Errorf("reading the answer: %w", err)
	}
	return a, nil
}

func (c *call) largest() int { return cmp.Or(c.most, maxBody) }

func (c *call) wants(status int) bool {
	return len(c.want) == 0 || slices.Contains(c.want, status)
}

// judge decides whether a complete answer is the wanted one.
func (c *call) judge(a *answer) error {
	switch enc := a.header.Get("Content-Encoding"); {
	case !c.wants(a.status):
		if err := c.refused[a.status]; err != nil {
			return err
		}
		if a.status < 300 {
			return fmt.Errorf("%w: HTTP %d where %d was expected", ErrAnswer, a.status, c.want[0])
		}
		return errRefused
	case len(a.body) > c.largest():
		return fmt.Errorf("%w: more than %d bytes", ErrAnswer, c.largest())
	case enc != "" && !strings.EqualFold(enc, "identity"):
		return fmt.Errorf("%w: content encoding %q, which was not asked for", ErrAnswer, enc)
	}
	return c.read(a)
}

// errRefused stands for a status that says it all.
var errRefused = errors.New("refused")

// failed makes the *Error. What the partner said is cleaned with every secret
// that was in the request, because servers and proxies do echo headers.
func (x *exchange) failed(c call, a *answer, err error) *Error {
	secrets := slices.Concat(c.secrets, c.own, x.secrets)
	e := &Error{Partner: x.partner, Op: c.op, Status: a.status, temporary: passes(a.status, err)}
	if c.quiet {
		e.cause = &cause{text: clean(ownWords(err), secrets), err: err}
		return e
	}
	if !errors.Is(err, errRefused) {
		e.cause = &cause{text: clean(err.Error(), secrets), err: err}
	}
	e.TraceID = clean(a.header.Get("X-Trace-Id"), secrets)
	e.LimitedBy = clean(a.header.Get("X-Rate-Limited-By"), secrets)
	if a.status == http.StatusTooManyRequests || a.status >= 500 {
		e.retryAfter = parseRetryAfter(a.header, time.Now())
	}
	if a.status >= 300 {
		said := readFault(a.body)
		e.Code, e.Message = clean(said.code, secrets), clean(said.message, secrets)
		e.RequestID = clean(said.requestID, secrets)
		if e.Code == "" && e.Message == "" {
			e.Message = clean(a.describe(), secrets)
		}
	}
	return e
}

// describe names a body that is not worth quoting.
func (a *answer) describe() string {
	switch {
	case a.status < 400:
		return "a redirect, which keyd does not follow"
	case len(a.body) == 0:
		return "empty body"
	case a.media == "":
		return "a body of no stated type"
	}
	return "a body of type " + a.media
}

// decodeJSON reads a whole JSON body. Unknown fields are no error: Wise adds
// fields without notice.
func decodeJSON(body []byte, into any) error {
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%w: the body: %w", ErrAnswer, err)
	}
	return nil
}
