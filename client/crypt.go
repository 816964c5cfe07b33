package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// EncryptOptions are what Encrypt may be told beyond partner and plaintext.
type EncryptOptions struct {
	URL     string // the request's path, for the url in the JOSE header
	Refetch bool   // the partner refused the last envelope: fetch its key afresh first
	// Direct says whether the reply comes under the content key of the request;
	// nil leaves it to what keyd knows of URL.
	Direct *bool
}

// Encrypt seals a request to a partner. The answer holds the envelope and the
// headers that must go with it.
func (c *Client) Encrypt(ctx context.Context, partner string, plaintext []byte, o EncryptOptions) (*Sealed, error) {
	path, err := under("partners", partner, "/encrypt")
	if err != nil {
		return nil, err
	}
	query := url.Values{}
	if o.URL != "" {
		query.Set("url", o.URL)
	}
	if o.Refetch {
		query.Set("refetch", "true")
	}
	if o.Direct != nil {
		query.Set("direct", strconv.FormatBool(*o.Direct))
	}
	return ask[Sealed](ctx, c, call{method: http.MethodPost, path: path, query: query,
		body: plaintext, bodyType: typeOctets, repeatable: true})
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
