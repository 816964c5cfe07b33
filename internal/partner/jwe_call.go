package partner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Frame makes the body of a request of the envelope it carries.
func (j *JWE) Frame(envelope []byte, _ int) ([]byte, error) {
	if j.cfg.Form != FormMember {
		return envelope, nil
	}
	if !isCompact(envelope) {
		return nil, errors.New("not a compact JWE")
	}
	var framed any = string(envelope)
	names := strings.Split(j.cfg.RequestMember[1:], "/")
	for _, name := range slices.Backward(names) {
		framed = map[string]any{name: framed}
	}
	return json.Marshal(framed)
}

// Do sends a business request and says what came back. A request that is not
// sealed as the config says is refused.
func (j *JWE) Do(ctx context.Context, req Request) (*Response, error) {
	to := j.Endpoint(req.Method, req.Path)
	own := j.getHeaders(req.KID, req.KeyID)
	if len(req.Body) > 0 {
		own = j.HeadersTo(req.KID, req.KeyID)
		if err := j.checkBody(req.Body, to); err != nil {
			return nil, j.refuse("%w", err)
		}
	}
	return j.do(ctx, req, to, own, j.read)
}

func (j *JWE) checkBody(body []byte, to Endpoint) error {
	switch j.cfg.Form {
	case FormFields:
		return checkFields(body, to)
	case FormMember:
		// The envelope and nothing beside it.
		framed, err := j.Frame(envelopeAt(body, j.cfg.RequestMember), 0)
		var compact bytes.Buffer
		if err != nil || json.Compact(&compact, body) != nil || !bytes.Equal(compact.Bytes(), framed) {
			return fmt.Errorf("%w: the body is not a compact JWE at %s", ErrRequest, j.cfg.RequestMember)
		}
	default:
		if !isCompact(body) {
			return fmt.Errorf("%w: the body is not a compact JWE", ErrRequest)
		}
	}
	return nil
}

// read tells answers apart by their content.
func (j *JWE) read(req Request, a *answer) (*Response, error) {
	res := newResponse(a)
	if res.Kind == KindPlain && j.cfg.Form != FormFields {
		if res.Envelope = j.envelopeIn(a.body); res.Envelope != nil {
			res.Kind = KindSealed
			return res, nil
		}
	}
	coded := a.status >= 400 && len(req.Body) > 0 && slices.Contains(j.cfg.StaleCodes, readFault(a.body).code)
	if res.Kind != KindLimited && (coded || j.cfg.stale(req, a, http.StatusBadRequest, http.StatusInternalServerError)) {
		res.Kind = KindStale
	}
	return res, nil
}

// envelopeIn finds the envelope in a reply, if replies are sealed at all.
func (j *JWE) envelopeIn(body []byte) []byte {
	if len(j.cfg.ReplyAlgs) == 0 && len(j.cfg.Direct) == 0 {
		return nil
	}
	if j.cfg.ReplyMember != "" {
		return envelopeAt(body, j.cfg.ReplyMember)
	}
	if body = bytes.TrimSpace(body); isCompact(body) {
		return body
	}
	return nil
}

// envelopeAt is the compact JWE at a place in a JSON body; nil is none.
func envelopeAt(body []byte, pointer string) []byte {
	var all any
	if json.Unmarshal(body, &all) != nil {
		return nil
	}
	value, _ := at(all, pointer)
	if text, _ := value.(string); isCompact([]byte(text)) {
		return []byte(text)
	}
	return nil
}
