package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"
)

var (
	// ErrUnreachable is returned when no daemon answers on the socket: there is
	// none, nobody listens on it, or this user may not open it. The request did
	// not reach the daemon.
	ErrUnreachable = errors.New("keyd is not reachable")
	// ErrTooLarge is returned when an answer exceeds 64 MiB.
	ErrTooLarge = errors.New("keyd's answer is too large")
	// ErrIncomplete is returned by Backup when the snapshot did not arrive whole.
	ErrIncomplete = errors.New("the backup is incomplete")
)

const (
	base       = "http://keyd" // a name for the Host header; the socket is what is dialled
	maxAnswer  = 64 << 20
	maxProblem = 64 << 10
	idleFor    = 90 * time.Second
	maxIdle    = 64

	requestID = "Keyd-Request-Id"

	typeJSON   = "application/json"
	typeJOSE   = "application/jose+json"
	typeOctets = "application/octet-stream"
)

// Client speaks to a daemon over one of its unix sockets: the client socket for
// Encrypt, Decrypt and Partner, the admin socket for the rest. It is safe for
// concurrent use and keeps connections open; deadlines come from the context.
//
// Errors are a *Problem where the daemon answered, and ErrUnreachable where
// there was nobody to ask.
type Client struct {
	socket string
	http   http.Client
}

// New makes a client of the daemon that listens on socket. It does not connect
// yet.
func New(socket string) *Client {
	var dialer net.Dialer
	return &Client{socket: socket, http: http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, "unix", socket)
			},
			DisableCompression:  true,
			MaxIdleConnsPerHost: maxIdle,
			IdleConnTimeout:     idleFor,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close lets go of idle connections. The client can still be used.
func (c *Client) Close() { c.http.CloseIdleConnections() }

type requestIDKey struct{}

// WithRequestID makes requests under ctx carry id as their Keyd-Request-Id, to
// be found again in the daemon's logs and answers.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// call is one request.
type call struct {
	method, path string
	query        url.Values
	body         []byte
	bodyType     string
	accept       string
	token        string // the caller's own at the partner
	repeatable   bool   // a POST that changes nothing may be sent again when its connection was stale
}

// do sends a request. The answer is one of success; everything else is an error.
func (c *Client) do(ctx context.Context, q call) (*http.Response, error) {
	target := base + q.path
	if len(q.query) > 0 {
		target += "?" + q.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, q.method, target, bytes.NewReader(q.body))
	if err != nil {
		return nil, fmt.Errorf("asking keyd: %w", err)
	}
	if q.bodyType != "" {
		req.Header.Set("Content-Type", q.bodyType)
	}
	req.Header.Set("Accept", q.accept)
	if q.token != "" {
		req.Header.Set("Authorization", "Bearer "+q.token)
	}
	if id, ok := ctx.Value(requestIDKey{}).(string); ok {
		req.Header.Set(requestID, id)
	}
	if q.repeatable {
		// Present and empty: net/http may send the request again after a daemon
		// restarted under an idle connection, and does not send the header.
		req.Header["Idempotency-Key"] = []string{}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer discard(resp)
		return nil, problem(resp)
	}
	return resp, nil
}

// explain says what to do about a socket that cannot be dialled.
func (c *Client) explain(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // the made-up URL would only confuse
	}
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "dial" {
		return fmt.Errorf("asking keyd on %s: %w", c.socket, err)
	}
	advice := "see whether the daemon runs (systemctl status keyd)"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		advice = "there is no such socket: see whether the daemon runs (systemctl status keyd) and where its config puts the socket"
	case errors.Is(err, syscall.ECONNREFUSED):
		advice = "nobody listens on it: start the daemon (systemctl start keyd)"
	case errors.Is(err, fs.ErrPermission):
		advice = "this user may not open it" + c.owner()
	}
	return fmt.Errorf("%w on %s: %w; %s", ErrUnreachable, c.socket, op.Err, advice)
}

// owner names the group that may open the socket, if that can be seen.
func (c *Client) owner() string {
	info, err := os.Stat(c.socket)
	if err != nil {
		return ": its folder is closed to you"
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	name := strconv.FormatUint(uint64(stat.Gid), 10)
	if g, err := user.LookupGroupId(name); err == nil {
		name = g.Name
	}
	return fmt.Sprintf(": its mode is %04o, its group %s", info.Mode().Perm(), name)
}

// problem reads an error answer.
func problem(resp *http.Response) error {
	p := &Problem{Status: resp.StatusCode}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	if err != nil || kind != "application/problem+json" || json.Unmarshal(b, p) != nil || p.Code == "" {
		// Not keyd's own words: a server in between, or another one altogether.
		*p = Problem{Type: "urn:keyd:problem:unexpected", Code: "unexpected",
			Title: fmt.Sprintf("unexpected answer %q of type %q", resp.Status, kind),
			Hint:  "see whether this is keyd's socket, and of the same version"}
	}
	p.Status = resp.StatusCode
	if p.RequestID == "" {
		p.RequestID = resp.Header.Get(requestID)
	}
	return p
}

// discard makes the connection usable again.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, maxProblem) // a rest that large closes the connection instead
	_ = resp.Body.Close()
}

// read takes in a whole answer, in one buffer where its length is announced, so
// that a plaintext leaves no copies behind.
func read(resp *http.Response) ([]byte, error) {
	if resp.ContentLength > maxAnswer {
		return nil, ErrTooLarge
	}
	if resp.ContentLength >= 0 {
		b := make([]byte, resp.ContentLength)
		if _, err := io.ReadFull(resp.Body, b); err != nil {
			clear(b)
			return nil, fmt.Errorf("reading keyd's answer: %w", err)
		}
		return b, nil
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = ErrTooLarge
	}
	if err != nil {
		clear(b)
		return nil, fmt.Errorf("reading keyd's answer: %w", err)
	}
	return b, nil
}

// ask sends a request and decodes the JSON of its answer.
func ask[T any](ctx context.Context, c *Client, q call) (*T, error) {
	q.accept = typeJSON
	resp, err := c.do(ctx, q)
	if err != nil {
		return nil, err
	}
	defer discard(resp)
	b, err := read(resp)
	if err != nil {
		return nil, err
	}
	answer := new(T)
	if err := json.Unmarshal(b, answer); err != nil {
		return nil, fmt.Errorf("reading keyd's answer to %s %s: %w", q.method, q.path, err)
	}
	return answer, nil
}

// get asks for a document.
func get[T any](ctx context.Context, c *Client, path string, query url.Values) (*T, error) {
	return ask[T](ctx, c, call{method: http.MethodGet, path: path, query: query})
}

// change asks for an operation on a key or version, or for its dry run.
func (c *Client) change(ctx context.Context, path string, body any, dryRun bool) (*Change, error) {
	return post[Change](ctx, c, path, body, dryRun)
}

// post asks for an operation, or for its dry run. A nil body is none.
func post[T any](ctx context.Context, c *Client, path string, body any, dryRun bool) (*T, error) {
	q := call{method: http.MethodPost, path: path}
	if dryRun {
		q.query = url.Values{"dry_run": {"true"}}
	}
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("asking keyd: %w", err)
		}
		q.body, q.bodyType = b, typeJSON
	}
	return ask[T](ctx, c, q)
}

// under is the path of something named by the caller. A name that is no path
// segment can name nothing in keyd.
func under(collection, name, rest string) (string, error) {
	if name == "" || name == "." || name == ".." {
		return "", fmt.Errorf("asking keyd: %q is not a name", name)
	}
	return "/v1/" + collection + "/" + url.PathEscape(name) + rest, nil
}
