package partner

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
)

// What an *Error's Op, the log and the metrics call each kind of call.
const (
	opToken      = "token"
	opAnnounce   = "announce"
	opKey        = "key"
	opPlayground = "playground"
)

// Where a request names the key Wise should seal its response to. Wise's
// documentation says that it must, and not where.
const (
	KIDInJOSE   = "jose"   // as kid in the JOSE header of the request's envelope
	KIDInHeader = "header" // in an HTTP header
	KIDNowhere  = "none"   // Wise chooses
)

// What an announcement answered with 409 means; Wise documents only 201 and 429.
const (
	DuplicateFails    = "fail"
	DuplicateAccepted = "accept"
)

// ResponseKID says how a request names the key for its response.
type ResponseKID struct {
	// In is KIDInJOSE (the default), KIDInHeader or KIDNowhere.
	In string
	// Header is the name of the HTTP header, with KIDInHeader only.
	Header string
}

// WiseConfig is one Wise client.
type WiseConfig struct {
	Connection
	// ClientID is the OAuth 2.0 client Wise has given us.
	ClientID string
	// ClientSecret returns the secret that goes with it, exactly, without a
	// trailing newline. It is called for each new access token, so a rotated
	// secret needs no restart; the slice is wiped after use.
	ClientSecret func() ([]byte, error)
	// ResponseKID says how a request names the key for its response.
	ResponseKID ResponseKID
	// OnDuplicate is DuplicateFails (the default) or DuplicateAccepted: take a
	// 409 to an announcement as "you have told me before", unless its body
	// names another key.
	OnDuplicate string
	// SealEnc is the content encryption of requests, A256GCM (the only one
	// Wise documents) when empty. ReplyEncs are those taken in answers; empty is
	// A256GCM.
	SealEnc   string
	ReplyEncs []string
	// Authorization of business requests: AuthCaller (the default; Wise's
	// business endpoints take a user's token) or AuthService.
	Authorization string
	// Direct are the paths (as in Allow) whose replies come under the request's
	// own content key, and DirectMaybe those of which Wise's pages say both. Nil
	// is what Wise documents.
	Direct, DirectMaybe []string
}

func (c *WiseConfig) check() (wrong complaints) {
	wrong.add(c.ClientID == "", "client ID: missing")
	wrong.add(c.ClientSecret == nil, "client secret: missing")
	switch c.ResponseKID.In {
	case KIDInHeader:
		wrong.add(!validHeader(c.ResponseKID.Header), "response kid: %q cannot be the header's name", c.ResponseKID.Header)
	case "", KIDInJOSE, KIDNowhere:
		wrong.add(c.ResponseKID.Header != "", "response kid: a header name without %q", KIDInHeader)
	default:
		wrong.add(true, "response kid in %q: want %s, %s or %s", c.ResponseKID.In, KIDInJOSE, KIDInHeader, KIDNowhere)
	}
	switch c.OnDuplicate {
	case "", DuplicateFails, DuplicateAccepted:
	default:
		wrong.add(true, "on duplicate %q: want %s or %s", c.OnDuplicate, DuplicateFails, DuplicateAccepted)
	}
	switch c.Authorization {
	case "", AuthCaller, AuthService:
	default:
		wrong.add(true, "authorization %q: want %s or %s", c.Authorization, AuthCaller, AuthService)
	}
	for _, p := range slices.Concat(c.Direct, c.DirectMaybe) {
		wrong.check(checkPattern(p))
	}
	return wrong
}

func (c *WiseConfig) setDefaults() {
	c.ResponseKID.In = cmp.Or(c.ResponseKID.In, KIDInJOSE)
	c.SealEnc = cmp.Or(c.SealEnc, "A256GCM")
	c.Authorization = cmp.Or(c.Authorization, AuthCaller)
	if len(c.ReplyEncs) == 0 {
		c.ReplyEncs = []string{"A256GCM"}
	}
	if c.Direct == nil {
		c.Direct = wiseDirect
	}
	if c.DirectMaybe == nil {
		c.DirectMaybe = wiseDirectMaybe
	}
}

// validHeader reports whether a name may carry the kid: a token (RFC 9110
// §5.6.2) that net/http or keyd does not use for something else.
func validHeader(name string) bool {
	const allowed = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
	if name == "" || strings.Trim(strings.ToLower(name), allowed) != "" {
		return false
	}
	switch strings.ToLower(name) {
	case "authorization", "proxy-authorization", "content-type", "content-length", "content-encoding", "accept",
		"accept-encoding", "host", "connection", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "x-tw-jose-method":
		return false
	}
	return true
}

// Wise speaks to Wise's JOSE API. It is safe for concurrent use.
type Wise struct {
	cfg      WiseConfig
	exchange *exchange
	tokens   *tokenSource
	*gate
	logger *slog.Logger
}

// NewWise checks the config and returns a client. It makes no call.
func NewWise(cfg WiseConfig) (*Wise, error) {
	x, err := cfg.open(cfg.check())
	if err != nil {
		return nil, err
	}
	cfg.setDefaults()
	secret := clientSecret{id: cfg.ClientID, secret: cfg.ClientSecret, path: "/oauth/token", in: SecretInBasic}
	tokens := &tokenSource{exchange: x, ask: secret.ask, logger: cfg.Logger}
	return &Wise{cfg: cfg, exchange: x, tokens: tokens, logger: cfg.Logger,
		gate: &gate{exchange: x, tokens: tokens, auth: cfg.Authorization, allow: cfg.Allow,
			reserved: wiseReserved, forward: canonical(wiseForward, cfg.Forward)}}, nil
}

// Headers are the HTTP headers of a request whose body is an envelope, but for
// Authorization: what business calls need is a token of another kind, which
// keyd does not hold. Endpoints for PINs and device fingerprints also want
// Content-Encoding: identity.
func (w *Wise) Headers(kid string) http.Header {
	h := http.Header{}
	h.Set("Content-Type", joseType)
	h.Set("Accept", joseType)
	h.Set("X-TW-JOSE-Method", "jwe")
	h.Set("Accept-Encoding", "identity")
	if w.cfg.ResponseKID.In == KIDInHeader && kid != "" {
		h.Set(w.cfg.ResponseKID.Header, kid)
	}
	return h
}

// GetHeaders are the headers of a request without a body, whose answer is an
// envelope all the same. They are those of Headers; Wise's samples send
// Content-Type on these too. With KIDInJOSE such a request has no JOSE header
// to name kid in, and which key Wise then takes is not documented: choose the
// private key by the kid of the answer.
func (w *Wise) GetHeaders(kid string) http.Header { return w.Headers(kid) }

// NamesKIDInJOSE reports whether requests name the key for their response in
// the JOSE header of their own envelope.
func (w *Wise) NamesKIDInJOSE() bool { return w.cfg.ResponseKID.In == KIDInJOSE }

// call makes a call with keyd's own access token.
func (w *Wise) call(ctx context.Context, c call) error {
	return w.tokens.authorized(ctx, w.exchange, c)
}
