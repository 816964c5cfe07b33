package partner

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
)

// What the answers of Wise's card data host are: its guide says that they are
// sealed under the request's own content key, its API description that they
// are plain JSON.
const (
	RepliesEither = "either"
	RepliesSealed = "sealed"
	RepliesClear  = "clear"
)

const (
	cardKeyPath = "/twcard-data/v1/clientSideEncryption/fetchEncryptingKey"
	cardData    = "/twcard-data/v1/sensitive-card-data/"
	algRSA1_5   = "RSA1_5" // RFC 7518 §4.2; to seal with, never to open
)

// ErrNeedsCaller: the partner shows its key to a user's token only. The key is
// fetched when a caller brings one.
var ErrNeedsCaller = errors.New("it needs a caller's own bearer token")

// WiseCardConfig is one client of Wise's card data host, which is a system of
// its own beside Wise's JOSE API: other hosts, other keys, other algorithms.
type WiseCardConfig struct {
	Connection
	// Replies is RepliesEither (the default), RepliesSealed or RepliesClear.
	Replies string
	// KeyVersion: a request names the version of the key it is sealed to. Wise's
	// description says that it is always 1, and so it is when false.
	KeyVersion bool
}

func (c *WiseCardConfig) check() (wrong complaints) {
	wrong.add(!slices.Contains([]string{"", RepliesEither, RepliesSealed, RepliesClear}, c.Replies),
		"replies %q: want %s, %s or %s", c.Replies, RepliesEither, RepliesSealed, RepliesClear)
	return wrong
}

// WiseCard speaks to Wise's card data host. It is safe for concurrent use.
type WiseCard struct {
	cfg      WiseCardConfig
	exchange *exchange
	*gate
}

// NewWiseCard checks the config and returns a client. It makes no call.
func NewWiseCard(cfg WiseCardConfig) (*WiseCard, error) {
	x, err := cfg.open(cfg.check())
	if err != nil {
		return nil, err
	}
	if cfg.Replies == "" {
		cfg.Replies = RepliesEither
	}
	return &WiseCard{cfg: cfg, exchange: x, gate: &gate{exchange: x, auth: AuthCaller, allow: cfg.Allow,
		forward: canonical(cardForward, cfg.Forward)}}, nil
}

// cardForward are request headers that Wise documents for callers.
var cardForward = []string{cardTokenHeader, cardOrderHeader, "X-External-Correlation-Id", "X-2FA-Approval", "One-Time-Token"}

// Which card, and which order of one, a request is about.
const (
	cardTokenHeader = "X-Tw-Twcard-Card-Token" //nolint:gosec // G101: a header's name
	cardOrderHeader = "X-Tw-Twcard-Order-Id"
)

// Profile says how requests are sealed. No key of ours is part of it.
func (w *WiseCard) Profile() Profile {
	return Profile{Type: TypeWiseCard, Form: FormMember, SealAlg: algRSA1_5, SealEnc: "A256GCM", KID: KIDNone,
		ReplyEncs: []string{"A256GCM"}, OurKey: OurKeyNone, CallersKey: true}
}

// Endpoint says what is special about an endpoint.
func (w *WiseCard) Endpoint(_, path string) Endpoint {
	e := Endpoint{Direct: map[string]string{RepliesEither: DirectMaybe, RepliesSealed: DirectAlways, RepliesClear: DirectNever}[w.cfg.Replies],
		Header: http.Header{}}
	switch path {
	case cardData + "details", cardData + "pin":
		e.Needs = []string{cardTokenHeader}
	case cardData + "preset-pin":
		e.Needs = []string{cardOrderHeader}
	}
	return e
}

// Headers are those of a request whose body is a frame, but for Authorization
// and what Endpoint says the caller must bring.
func (w *WiseCard) Headers(string) http.Header {
	h := w.GetHeaders("")
	h.Set("Content-Type", jsonType)
	return h
}

// GetHeaders are those of a request without a body.
func (w *WiseCard) GetHeaders(string) http.Header {
	return http.Header{"Accept": {jsonType + ", " + joseType}, "Accept-Encoding": {"identity"}}
}

// FetchKey cannot fetch the key without a user's token: see FetchKeyAs.
func (w *WiseCard) FetchKey(context.Context) (id string, version int, algorithm string, public crypto.PublicKey, err error) {
	return "", 0, "", nil, w.exchange.failed(call{op: opKey}, &answer{}, ErrNeedsCaller)
}

// FetchKeyAs fetches the RSA key that requests are sealed to, with the bearer
// token of a caller ("Bearer TOKEN").
func (w *WiseCard) FetchKeyAs(ctx context.Context, authorization string) (id string, version int, algorithm string, public crypto.PublicKey, err error) {
	c := call{op: opKey, method: http.MethodGet, path: cardKeyPath, header: http.Header{"Accept": {jsonType}},
		want: []int{http.StatusOK}}
	if _, err := w.authorize(ctx, &c, authorization); err != nil {
		return "", 0, "", nil, err
	}
	c.read = func(a *answer) (err error) {
		version, public, err = readCardKey(a.body)
		return err
	}
	if err := w.exchange.do(ctx, c); err != nil {
		return "", 0, "", nil, err
	}
	return "", version, algRSA1_5, public, nil
}

// readCardKey reads {"version":1,"key":"..."}. How the key is encoded is not
// documented.
func readCardKey(body []byte) (version int, public crypto.PublicKey, err error) {
	var k struct {
		Version *int32 `json:"version"`
		Key     string `json:"key"`
	}
	if err := decodeJSON(body, &k); err != nil {
		return 0, nil, err
	}
	if k.Version == nil || *k.Version < 0 {
		return 0, nil, fmt.Errorf("%w: no version of the key", ErrAnswer)
	}
	key, err := asRSA(parseKeyText(k.Key))
	if err != nil {
		return 0, nil, fmt.Errorf("%w: key: %w", ErrAnswer, err)
	}
	return int(*k.Version), key, nil
}

// cardFrame is the body of each request.
type cardFrame struct {
	KeyVersion int    `json:"keyVersion"`
	Payload    string `json:"encryptedPayload"`
}

// Frame makes the body of a request of the envelope it carries, which is sealed
// to the given version of Wise's key.
func (w *WiseCard) Frame(envelope []byte, version int) ([]byte, error) {
	if !isCompact(envelope) {
		return nil, errors.New("not a compact JWE")
	}
	if !w.cfg.KeyVersion {
		version = 1
	}
	return json.Marshal(cardFrame{version, string(envelope)})
}

// Do sends a business request and says what came back. A request whose body is
// not a frame is refused.
func (w *WiseCard) Do(ctx context.Context, req Request) (*Response, error) {
	own := w.GetHeaders("")
	if len(req.Body) > 0 {
		own = w.Headers("")
		if err := checkFrame(req.Body); err != nil {
			return nil, w.refuse("%w", err)
		}
	}
	return w.do(ctx, req, w.Endpoint(req.Method, req.Path), own, w.read)
}

// checkFrame refuses what is not a frame around an envelope and nothing else.
func checkFrame(body []byte) error {
	members, err := readObject(body)
	if err != nil {
		return err
	}
	_, versioned := members["keyVersion"].(float64)
	payload, _ := members["encryptedPayload"].(string)
	if len(members) != 2 || !versioned || !isCompact([]byte(payload)) {
		return fmt.Errorf("%w: the body is not a frame around a compact JWE", ErrRequest)
	}
	return nil
}

// read tells answers apart by their content: where the JWE stands in one, and
// of what type it is, are not documented either.
func (w *WiseCard) read(req Request, a *answer) (*Response, error) {
	res := newResponse(a)
	switch {
	case w.cfg.stale(req, a, http.StatusBadRequest, http.StatusInternalServerError):
		res.Kind = KindStale // what a wrong key gets is not documented: either will do
	case res.Kind != KindPlain || a.status >= 300:
	case w.cfg.Replies == RepliesClear:
		if cardEnvelope(a.body) != nil {
			return nil, fmt.Errorf("%w: sealed, and replies in the config says clear", ErrAnswer)
		}
	default:
		if res.Envelope = cardEnvelope(a.body); res.Envelope != nil {
			res.Kind = KindSealed
		} else if w.cfg.Replies == RepliesSealed {
			return nil, fmt.Errorf("%w: in clear, and replies in the config says sealed", ErrAnswer)
		}
	}
	return res, nil
}

// cardEnvelope finds the compact JWE that a body is: bare, as a JSON string, or
// in a frame like that of requests. Nil is none.
func cardEnvelope(body []byte) []byte {
	body = bytes.TrimSpace(body)
	var text string
	var frame cardFrame
	switch {
	case isCompact(body):
		return body
	case json.Unmarshal(body, &text) == nil && isCompact([]byte(text)):
		return []byte(text)
	case json.Unmarshal(body, &frame) == nil && isCompact([]byte(frame.Payload)):
		return []byte(frame.Payload)
	}
	return nil
}
