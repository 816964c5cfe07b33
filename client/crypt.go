package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// EncryptOptions are what Encrypt may be told beyond partner and plaintext. Of
// all that it is not told, keyd takes what it knows of the endpoint.
type EncryptOptions struct {
	// URL is the request's path, and Method its method, POST when empty.
	URL, Method string
	Refetch     bool // the partner refused the last envelope: fetch its key afresh first
	// Direct says whether the reply comes under the content key of the request.
	Direct *bool
	// Fields are JSON pointers of the values to seal, each by itself.
	Fields []string
	// PublicKeyAt is where our public key goes; with Ephemeral it is one that is
	// made for the reply.
	PublicKeyAt string
	Ephemeral   *bool
	// Form is where the envelope goes, with Venly: "body" or "header".
	Form string
	// Token is the caller's own at the partner, for partners that show their key
	// to nobody else.
	Token string
}

func (o EncryptOptions) query() url.Values {
	query := url.Values{}
	for name, value := range map[string]string{"url": o.URL, "method": o.Method, "public_key_at": o.PublicKeyAt, "form": o.Form} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if o.Refetch {
		query.Set("refetch", "true")
	}
	for name, value := range map[string]*bool{"direct": o.Direct, "ephemeral": o.Ephemeral} {
		if value != nil {
			query.Set(name, strconv.FormatBool(*value))
		}
	}
	if len(o.Fields) > 0 {
		query["field"] = o.Fields
	}
	return query
}

// Encrypt seals a request to a partner. The answer holds what to send and the
// headers that must go with it.
func (c *Client) Encrypt(ctx context.Context, partner string, plaintext []byte, o EncryptOptions) (*Sealed, error) {
	path, err := under("partners", partner, "/encrypt")
	if err != nil {
		return nil, err
	}
	return ask[Sealed](ctx, c, call{method: http.MethodPost, path: path, query: o.query(), token: o.Token,
		body: plaintext, bodyType: typeOctets, repeatable: true})
}

// SigningMethod is with what a user allows a request at Venly: a PIN, say.
type SigningMethod struct {
	ID               string `json:"id"`
	Value            string `json:"value"`
	IdempotencyKey   string `json:"idempotency_key,omitempty"`
	PhysicalDeviceID string `json:"physical_device_id,omitempty"`
}

// EncryptMethod seals with what a user allows the request with the given body,
// which must be exactly what is sent. The header to send is in the answer.
func (c *Client) EncryptMethod(ctx context.Context, partner string, m SigningMethod, body []byte, o EncryptOptions) (*Sealed, error) {
	plaintext, err := json.Marshal(struct {
		Method SigningMethod `json:"signing_method"`
		Body   []byte        `json:"body"`
	}{m, body})
	if err != nil {
		return nil, fmt.Errorf("asking keyd: %w", err)
	}
	defer clear(plaintext)
	o.Form = "header"
	return c.Encrypt(ctx, partner, plaintext, o)
}

// Decrypt opens a compact JWE that a partner sealed to us. The caller may clear
// the plaintext when it is done with it.
func (c *Client) Decrypt(ctx context.Context, partner string, envelope []byte) (*Opened, error) {
	return c.open(ctx, partner, nil, envelope, true)
}

// DecryptReply opens the compact JWE with which a partner answered in an
// exchange that Encrypt began. It works once.
func (c *Client) DecryptReply(ctx context.Context, partner, exchange string, envelope []byte) (*Opened, error) {
	return c.open(ctx, partner, url.Values{"exchange": {exchange}}, envelope, false)
}

// DecryptOptions are what DecryptFields is told.
type DecryptOptions struct {
	// Fields are JSON pointers of envelopes whose content becomes a string,
	// JSONFields of those whose content is JSON.
	Fields, JSONFields []string
	// Exchange is that of the request which the body answers, if one was begun.
	Exchange string
}

// DecryptFields opens values of a JSON body, each an envelope of its own, and
// returns the body with what was in them: all of them or none.
func (c *Client) DecryptFields(ctx context.Context, partner string, body []byte, o DecryptOptions) (*Opened, error) {
	query := url.Values{}
	for name, pointers := range map[string][]string{"field": o.Fields, "field_json": o.JSONFields} {
		if len(pointers) > 0 {
			query[name] = pointers
		}
	}
	if o.Exchange != "" {
		query.Set("exchange", o.Exchange)
	}
	return c.open(ctx, partner, query, body, o.Exchange == "")
}

func (c *Client) open(ctx context.Context, partner string, query url.Values, envelope []byte, repeatable bool) (*Opened, error) {
	path, err := under("partners", partner, "/decrypt")
	if err != nil {
		return nil, err
	}
	resp, err := c.do(ctx, call{method: http.MethodPost, path: path, query: query,
		body: envelope, bodyType: typeJOSE, accept: typeOctets, repeatable: repeatable})
	if err != nil {
		return nil, err
	}
	defer discard(resp)
	plaintext, err := read(resp)
	if err != nil {
		return nil, err
	}
	return &Opened{Plaintext: plaintext, KID: resp.Header.Get("Keyd-Kid"),
		Boundary: resp.Header.Get("Keyd-Boundary"), RequestID: resp.Header.Get(requestID)}, nil
}

// Partner returns what is needed to talk to a partner: the headers to send, our
// active kid, their key. Both sockets answer it.
func (c *Client) Partner(ctx context.Context, partner string) (*Partner, error) {
	path, err := under("partners", partner, "")
	if err != nil {
		return nil, err
	}
	return get[Partner](ctx, c, path, nil)
}

// JWKS returns our public keys that a partner may use now. Both sockets answer it.
func (c *Client) JWKS(ctx context.Context, partner string) (*JWKS, error) {
	path, err := under("partners", partner, "/jwks")
	if err != nil {
		return nil, err
	}
	return get[JWKS](ctx, c, path, nil)
}

// Call has keyd seal a request, send it to the partner and open the answer.
// token is the caller's own at the partner; "" is none. The answer is the
// partner's whatever its status; an error is that there was none, or that the
// request was not sent.
func (c *Client) Call(ctx context.Context, partner string, request Call, token string) (*Answer, error) {
	path, err := under("partners", partner, "/call")
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("asking keyd: %w", err)
	}
	defer clear(body)
	return ask[Answer](ctx, c, call{method: http.MethodPost, path: path, body: body, bodyType: typeJSON, token: token})
}
