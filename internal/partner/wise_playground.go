package partner

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
)

const (
	playgroundPath = "/v1/auth/jose/playground/jwe"
)

// Playground asks Wise for an answer sealed to one of our keys, and returns it
// as it came: a compact JWE. The request has no body and needs none of Wise's
// keys. It names kid where the config says that requests name it in a header;
// which key Wise did take is in the answer.
func (w *Wise) Playground(ctx context.Context, kid string) (compact []byte, err error) {
	return w.playground(ctx, http.MethodGet, w.GetHeaders(kid), nil)
}

// PlaygroundPost sends Wise an envelope to open and returns the envelope it
// answers with. seal is given the value for the envelope's url header and
// returns a compact JWE, with kid in its header where NamesKIDInJOSE says so.
// An error for which StaleKey is true may mean that it was sealed to a key Wise
// has replaced.
func (w *Wise) PlaygroundPost(ctx context.Context, kid string, seal func(url string) (string, error)) (compact []byte, err error) {
	sealed, err := seal(playgroundPath)
	if err != nil {
		return nil, fmt.Errorf("sealing a message for the playground of %s: %w", w.cfg.Name, err)
	}
	return w.playground(ctx, http.MethodPost, w.Headers(kid), []byte(sealed))
}

func (w *Wise) playground(ctx context.Context, method string, header http.Header, body []byte) (compact []byte, err error) {
	err = w.call(ctx, call{
		op:     opPlayground,
		method: method,
		path:   playgroundPath,
		header: header,
		body:   body,
		want:   []int{http.StatusOK},
		read: func(a *answer) (err error) {
			compact, err = readEnvelope(a)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	return compact, nil
}

// readEnvelope takes an answer that looks like a compact JWE. Wise's error
// bodies are plain JSON, and an empty answer is not sealed; neither says
// anything about our keys.
func readEnvelope(a *answer) ([]byte, error) {
	body := bytes.TrimSpace(a.body)
	switch {
	case len(body) == 0:
		return nil, fmt.Errorf("%w: an empty body", ErrAnswer)
	case a.media != joseType:
		return nil, fmt.Errorf("%w: a body of type %q, want %s", ErrAnswer, a.media, joseType)
	case bytes.Count(body, []byte(".")) != 4: // RFC 7516 §7.1
		return nil, fmt.Errorf("%w: not a compact JWE", ErrAnswer)
	}
	return body, nil
}
