package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"keyd/client"
	"keyd/internal/audit"
	"keyd/internal/field"
)

// What the body of an answer was, for client.Answer.Content.
const (
	contentSealed   = "sealed"   // an envelope, which was opened
	contentFields   = "fields"   // values in it were envelopes, and were opened
	contentPlain    = "plain"    // in clear
	contentEmpty    = "empty"    // nothing
	contentUnopened = "unopened" // sealed, and it did not open
)

// outcome is what comes of a call.
type outcome struct {
	client.Answer
	body   []byte // wiped when it has been sent
	opened []*Opened
	stale  bool
}

// call seals a request, sends it, and opens the answer.
func (s *Server) call(x *visit) error {
	defer clear(x.body)
	p, err := s.partner(x)
	if err != nil {
		return err
	}
	c, err := x.readCall(s, p)
	if err != nil {
		return err
	}
	defer c.wipe()
	giveBack, err := s.turns.take(p.Name)
	if err != nil {
		return err
	}
	defer giveBack()
	ctx := withAuthorization(x.r.Context(), c.request.Authorization)
	e := audit.Entry{Op: uuid.NewString(), Phase: audit.PhaseIntent, Action: x.route.action, Actor: x.actor, Partner: p.Name,
		Detail: map[string]string{"request": x.id, "method": printable(c.request.Method), "path": printable(c.request.Path)}}
	if err := s.audit.Record(ctx, e); err != nil { // what cannot be recorded does not leave
		return fmt.Errorf("%w: %w", ErrAudit, err)
	}
	out, failure := s.carryOut(ctx, x.actor, p, c)
	giveBack() // before the answer, after which the caller may make the next
	defer out.wipe()
	s.cfg.Meters.called(p.Name, out.Content, failure)
	if err := s.recordCall(ctx, e, out, failure); err != nil {
		return err
	}
	if failure != nil {
		return failure
	}
	return x.send(out)
}

// recordCall records what came of a call.
func (s *Server) recordCall(ctx context.Context, e audit.Entry, out *outcome, failure error) error {
	e.Phase, e.Result, e.Detail = audit.PhaseOutcome, audit.ResultOK, maps.Clone(e.Detail)
	switch {
	case failure == nil:
		e.KID = out.KID
		e.Detail["status"], e.Detail["content"] = strconv.Itoa(out.Status), out.Content
		if out.Retried {
			e.Detail["retried"] = "true"
		}
	case errors.Is(failure, ErrCallNotAllowed):
		e.Result, e.Code = audit.ResultRefused, kindOf(failure).code
	default:
		e.Result, e.Code = audit.ResultFailed, kindOf(failure).code
	}
	if err := s.audit.Record(context.WithoutCancel(ctx), e); err != nil {
		return fmt.Errorf("%w: %w", ErrAudit, err)
	}
	return nil
}

// carryOut makes a call. A request that may have been sealed to an old key of
// the partner's is sealed and sent once more, if its key is another one by now;
// so is one whose answer does not open, if it may be repeated. Any other whose
// answer does not open has had its effect.
func (s *Server) carryOut(ctx context.Context, actor audit.Actor, p *Partner, c *call) (*outcome, error) {
	if err := p.Remote.Allows(c.request.Method, c.request.Path); err != nil { // before the partner is asked for a key
		return &outcome{}, callFailure(ctx, err)
	}
	out, err := s.tryOnce(ctx, actor, p, c)
	if err != nil {
		return out, err
	}
	again := out.Content == contentUnopened && c.repeatable()
	if c.sealed() && (out.stale || again) {
		again = s.hasNewKey(ctx, actor, p, out.PartnerKey) || again
	}
	if !again {
		return out, nil
	}
	out.wipe()
	s.drop(ctx, actor, p, out)
	out, err = s.tryOnce(ctx, actor, p, c)
	out.Retried = true
	return out, err
}

// tryOnce seals, sends and opens.
func (s *Server) tryOnce(ctx context.Context, actor audit.Actor, p *Partner, c *call) (*outcome, error) {
	out, request := &outcome{}, c.request
	if err := s.dress(ctx, actor, p, c, &request, out); err != nil {
		return out, err
	}
	response, err := p.Remote.Do(ctx, request)
	if err != nil {
		s.drop(ctx, actor, p, out)
		return out, callFailure(ctx, err)
	}
	out.Status, out.Headers, out.RetryAfter, out.stale = response.Status, p.shown(response.Header), response.RetryAfter, response.Stale
	s.read(ctx, actor, p, c, response, out)
	if out.Content != contentUnopened { // it is over, or its reply did not come
		s.drop(ctx, actor, p, out)
	}
	return out, nil
}

// dress seals what is to be sealed, and puts the request together.
func (s *Server) dress(ctx context.Context, actor audit.Actor, p *Partner, c *call, request *Request, out *outcome) error {
	if !c.sealed() {
		ours, err := s.activeVersion(p.Name)
		request.KID = ours.KID
		return err
	}
	l, err := s.seal(ctx, actor, p, c.want)
	s.cfg.Meters.sealed(p.Name, err)
	if err != nil {
		return err
	}
	out.PartnerKey, out.Exchange = l.out.KeyID, l.out.Exchange
	request.KID, request.KeyID = l.ours.KID, l.theirs.ID
	if sent := l.out.Send(); sent != "" { // else the body goes as it came
		request.Body = []byte(sent)
	}
	if l.header != "" {
		request.Header = request.Header.Clone()
		request.Header.Set(l.header, l.out.Headers[l.header])
	}
	return nil
}

// drop ends the exchange of a request whose reply nobody will ask for.
func (s *Server) drop(ctx context.Context, actor audit.Actor, p *Partner, out *outcome) {
	if out.Exchange != nil {
		s.cfg.Opener.Drop(ctx, actor, p.Name, out.Exchange.ID)
		out.Exchange = nil
	}
}

// callFailure tells what a partner did wrong from what the caller did.
func callFailure(ctx context.Context, err error) error {
	for _, unsent := range []error{ErrCallNotAllowed, ErrCallRequest, ErrCallCredentials} {
		if errors.Is(err, unsent) {
			return err
		}
	}
	if ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%w: %w", errUnanswered, err)
}

// hasNewKey reports whether the partner has another key than the one that a
// request was sealed to. It asks the partner, as often as that may be done.
func (s *Server) hasNewKey(ctx context.Context, actor audit.Actor, p *Partner, sealedTo string) bool {
	if s.refetch.may(p.Name, time.Now()) {
		if _, _, err := s.cfg.Engine.RefreshPartnerKey(ctx, actor, p.Name); err != nil {
			s.log.WarnContext(ctx, "asking for a partner's key after an answer that may mean that it has another", "partner", p.Name, "err", err)
			return false
		}
	}
	pk, err := s.cfg.Engine.PartnerKey(ctx, p.Name)
	return err == nil && nameOf(pk) != sealedTo
}

// answerHeaders are those of a partner's answer that reach the caller, beside
// the ones that begin with X- and those that the config names.
var answerHeaders = []string{"Content-Type", "Content-Language", "Content-Location", "Date", "Etag", "Last-Modified", "Link", "Location", "Retry-After", "Www-Authenticate"}

// shown are the headers of an answer that reach the caller.
func (p *Partner) shown(h http.Header) map[string]string {
	some := http.Header{}
	for name, values := range h {
		if slices.Contains(answerHeaders, name) || slices.Contains(p.AnswerHeaders, name) || len(name) > 2 && name[:2] == "X-" {
			some[name] = values
		}
	}
	return plain(some)
}

// read opens what of an answer is sealed. That it does not open is part of the
// outcome: the request has had its effect, and the caller must know of it.
func (s *Server) read(ctx context.Context, actor audit.Actor, p *Partner, c *call, r *Response, out *outcome) {
	var err error
	switch {
	case r.Envelope != nil:
		out.Content = contentSealed
		if out.opened, err = s.openAnswer(ctx, actor, p, r.Envelope, out.Exchange); err == nil {
			out.body = out.opened[0].Plaintext
		}
	case len(r.Body) == 0:
		out.Content = contentEmpty
		return
	case len(c.open) == 0 || r.Status >= 300:
		out.Content, out.body = contentPlain, r.Body
		return
	default:
		out.Content = contentFields
		out.body, out.opened, err = s.openInside(ctx, actor, p, r.Body, c.open, out.Exchange)
	}
	if err != nil {
		said, _ := problem(err, requestIDFrom(ctx))
		out.Content, out.Problem, out.body = contentUnopened, &said, r.Body // which is sealed still, for another try
		return
	}
	out.KID, out.Boundary = leastOf(out.opened)
}

// openAnswer opens the envelope of an answer: in its exchange, if it is one of
// those, or under a key of ours.
func (s *Server) openAnswer(ctx context.Context, actor audit.Actor, p *Partner, compact []byte, x *client.Exchange) ([]*Opened, error) {
	if x != nil {
		opened, err := s.cfg.Opener.OpenReply(ctx, actor, p.Name, x.ID, compact)
		if err == nil || !errors.Is(err, errOtherReply) || len(p.Algs) == 0 {
			return opened, err
		}
	}
	opened, err := s.cfg.Opener.Open(ctx, actor, p.Name, compact)
	if err != nil {
		return nil, err
	}
	return []*Opened{opened}, nil
}

// openInside opens values of an answer's JSON body.
func (s *Server) openInside(ctx context.Context, actor audit.Actor, p *Partner, body []byte, at []opening, x *client.Exchange) ([]byte, []*Opened, error) {
	doc, err := field.Parse(body)
	if err != nil {
		return nil, nil, err
	}
	openings, err := envelopesIn(doc, at)
	if err != nil {
		return nil, nil, err
	}
	id := ""
	if x != nil {
		id = x.ID
	}
	opened, err := s.openFields(ctx, actor, p.Name, id, openings)
	if err != nil {
		return nil, opened, err
	}
	whole, err := putBack(doc, openings, opened)
	return whole, opened, err
}

func (out *outcome) wipe() {
	wipe(out.opened)
	clear(out.body)
}
