package api

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdh"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"keyd/client"
	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/exchange"
	"keyd/internal/field"
	"keyd/internal/jwe"
	"keyd/internal/registry"
)

// sealing is what is to be sealed to a partner, and how.
type sealing struct {
	plaintext []byte
	verb      string // the HTTP method of the request
	path      string // and its path; "" is not said
	refetch   bool   // the partner's key is fetched afresh first
	direct    bool   // the reply comes under the content key of the request
	ephemeral bool   // the reply comes under a key that is made for it
	fields    []field.Pointer
	keyAt     field.Pointer // where our public key goes; the zero Pointer is nowhere

	// The rest is for FormOwn.
	in     string         // InBody or InHeader
	method *SigningMethod // for a header; nil with InHeader: the plaintext is a document with it and the body
	body   []byte         // of the request that it is for, with InHeader
}

// sealer seals one request.
type sealer struct {
	*Server
	ctx    context.Context //nolint:containedctx // it lives as long as the request
	actor  audit.Actor
	p      *Partner
	want   sealing
	ours   registry.Version // the active one of ours; none has no KID
	theirs registry.PartnerKey
	public crypto.PublicKey // theirs
	out    *client.Sealed
	header string // that a signing method is in, with FormOwn; "" is none
}

// seal seals a request to a partner.
func (s *Server) seal(ctx context.Context, actor audit.Actor, p *Partner, want sealing) (*sealer, error) {
	l := &sealer{Server: s, ctx: ctx, actor: actor, p: p, want: want}
	if err := l.keys(); err != nil {
		return nil, err
	}
	l.out = &client.Sealed{Headers: plain(p.headers(l.ours.KID, l.theirs.ID, want.verb, want.path)), KID: l.ours.KID, KeyID: nameOf(l.theirs)}
	form := map[Form]func() error{FormBody: l.whole, FormMember: l.whole, FormFields: l.values, FormOwn: l.own}[p.Form]
	if err := form(); err != nil {
		if l.out.Exchange != nil { // nobody will ask for its reply
			s.cfg.Opener.Drop(ctx, actor, p.Name, l.out.Exchange.ID)
		}
		return nil, err
	}
	return l, nil
}

// nameOf is what a partner's key goes by.
func nameOf(pk registry.PartnerKey) string { return cmp.Or(pk.ID, pk.Fingerprint) }

// keys looks up ours and theirs.
func (l *sealer) keys() (err error) {
	if l.ours, err = l.activeVersion(l.p.Name); err != nil && !l.want.ephemeral {
		return err
	}
	if l.theirs, err = l.partnerKey(l.ctx, l.actor, l.p, l.want.refetch); err != nil {
		return err
	}
	if l.public, err = boundary.ParsePublic(l.theirs.Public); err != nil {
		return fmt.Errorf("reading the stored public key of %s: %w", l.p.Name, err)
	}
	return nil
}

// whole seals all of the body.
func (l *sealer) whole() error {
	compact, cek, err := l.envelope(l.want.plaintext)
	defer clear(cek)
	if err != nil {
		return err
	}
	l.out.JWE = compact
	if l.p.Form == FormMember {
		body, err := l.p.Remote.Frame([]byte(compact), l.theirs.Version)
		if err != nil {
			return fmt.Errorf("framing an envelope for %s: %w", l.p.Name, err)
		}
		l.out.Body = string(body)
	}
	if !l.want.direct {
		return nil
	}
	ticket, err := l.cfg.Opener.BeginDirect(l.ctx, l.actor, l.p.Name, l.home(l.p.Name), l.p.SealEnc, cek)
	l.began(ticket)
	return err
}

// values seals values of a JSON body, each by itself, and puts our public key
// where it belongs.
func (l *sealer) values() error {
	doc, err := field.Parse(l.want.plaintext)
	if err != nil {
		return err
	}
	edits, err := sealFields(doc, l.want.fields, func(plaintext []byte) (string, error) {
		compact, cek, err := l.envelope(plaintext)
		clear(cek)
		return compact, err
	})
	if err != nil {
		return err
	}
	if !l.want.keyAt.Whole() {
		key, err := l.ourKey()
		if err != nil {
			return err
		}
		edits = append(edits, field.Edit{At: l.want.keyAt, JSON: key, Add: true})
	}
	body, err := doc.Apply(edits)
	defer clear(body)
	l.out.Body = string(body)
	return err
}

// envelope seals one plaintext. The caller wipes the content key.
func (l *sealer) envelope(plaintext []byte) (compact string, cek []byte, err error) {
	header := jwe.SealHeader{Alg: l.p.Seal, Enc: l.p.SealEnc, KID: map[KIDOf]string{KIDOurs: l.ours.KID, KIDTheirs: l.theirs.ID}[l.p.KID]}
	if l.p.URLInJOSE {
		header.URL = l.want.path
	}
	header.Extra = l.p.jose(time.Now(), l.ours.KID, l.theirs.ID)
	compact, cek, err = jwe.SealKeeping(l.public, header, plaintext)
	switch {
	case errors.Is(err, jwe.ErrTooLarge):
		return "", nil, fmt.Errorf("%w: the url is too long for a JOSE header", errBadRequest)
	case errors.Is(err, jwe.ErrAlgorithm):
		return "", nil, fmt.Errorf("%w: %s with the public key of %s: %v", errPartner, header.Alg, l.p.Name, err) //nolint:errorlint // it is no envelope that is refused
	}
	return compact, cek, err
}

// ourKey is the public key that the reply is to be sealed to, as JSON: the
// active version's, or one made for it alone.
func (l *sealer) ourKey() (json.RawMessage, error) {
	if !l.want.ephemeral {
		public, err := boundary.ParsePublic(l.ours.Public)
		if err != nil {
			return nil, fmt.Errorf("reading the public key of version %s: %w", l.ours.KID, err)
		}
		return l.p.Remote.PublicKey(public, l.ours.KID)
	}
	curve := boundary.Curves[0]
	if theirs, ok := l.public.(*ecdh.PublicKey); ok {
		curve = fmt.Sprint(theirs.Curve())
	}
	ticket, public, err := l.cfg.Opener.BeginEphemeral(l.ctx, l.actor, l.p, curve)
	l.began(ticket)
	if err != nil {
		return nil, err
	}
	return l.p.Remote.PublicKey(public, "")
}

func (l *sealer) began(ticket exchange.Ticket) {
	if ticket.ID != "" {
		l.out.Exchange = &client.Exchange{ID: ticket.ID, Kind: ticket.Kind, ExpiresAt: ticket.Expires}
	}
}

// jose are the further members of a JOSE header. One that would name no key is
// left out.
func (p *Partner) jose(now time.Time, kid, keyID string) map[string]any {
	if len(p.JOSE) == 0 && p.IssuedIn == 0 {
		return nil
	}
	extra, names := map[string]any{}, strings.NewReplacer("{kid}", kid, "{key_id}", keyID)
	for name, value := range p.JOSE {
		if kid == "" && strings.Contains(value, "{kid}") || keyID == "" && strings.Contains(value, "{key_id}") {
			continue
		}
		extra[name] = names.Replace(value)
	}
	if p.IssuedIn > 0 {
		extra["iat"] = now.UnixNano() / int64(p.IssuedIn)
	}
	return extra
}

// headers are those of a request with a sealed body to a path; "" is any.
func (p *Partner) headers(kid, keyID, verb, path string) http.Header {
	h := p.Remote.Headers(kid, keyID).Clone()
	if path != "" {
		maps.Copy(h, p.Remote.Endpoint(verb, path).Header)
	}
	return h
}

// activeVersion is the one that requests to a partner name. A partner without a
// key of ours, which sends us nothing sealed, has none.
func (s *Server) activeVersion(partner string) (registry.Version, error) {
	mine := false
	for _, key := range s.cfg.Registry.Keys() {
		if key.Partner != partner || key.Algorithm == boundary.PS256 {
			continue
		}
		mine = true
		if v, ok := s.cfg.Registry.Active(key.Name); ok {
			return v, nil
		}
	}
	if mine {
		return registry.Version{}, fmt.Errorf("partner %s: %w", partner, errNoActive)
	}
	return registry.Version{}, nil
}

// home is the backend in which a partner's exchanges are kept: where its key
// that opens is or, where it has none, the one that signs.
func (s *Server) home(partner string) (backend string) {
	for _, key := range s.cfg.Registry.Keys() {
		switch {
		case key.Partner != partner:
		case key.Algorithm != boundary.PS256:
			return key.Backend
		default:
			backend = key.Backend
		}
	}
	return backend
}
