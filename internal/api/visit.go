package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"keyd/internal/audit"
	"keyd/internal/rotation"
)

// visit is one request and its answer.
type visit struct {
	w     http.ResponseWriter
	r     *http.Request
	route *route
	id    string
	actor audit.Actor
	query url.Values
	body  []byte
	began bool // the answer is on its way
}

const requestIDHeader = "Keyd-Request-Id"

// handler serves the routes of one listener.
func (s *Server) handler(on door) http.Handler {
	mux := http.NewServeMux()
	methods := map[string][]string{}
	for _, rt := range s.routes() {
		if rt.on == on {
			mux.HandleFunc(rt.method+" "+rt.pattern, func(w http.ResponseWriter, r *http.Request) { s.serve(&rt, w, r) })
			methods[rt.pattern] = append(methods[rt.pattern], rt.method)
		}
	}
	for pattern, allowed := range methods {
		rt := route{on: on, within: quick, handle: notAllowed(strings.Join(allowed, ", "))}
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { s.serve(&rt, w, r) })
	}
	none := route{on: on, within: quick, handle: func(*Server, *visit) error { return errNoRoute }}
	nothing := func(w http.ResponseWriter, r *http.Request) { s.serve(&none, w, r) }
	mux.HandleFunc("/", nothing)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// http.ServeMux would redirect, in HTML, to what it thinks was meant.
		if p := r.URL.EscapedPath(); r.Method == http.MethodConnect || !strings.HasPrefix(p, "/") || path.Clean(p) != p {
			nothing(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func notAllowed(methods string) func(*Server, *visit) error {
	return func(_ *Server, x *visit) error {
		x.w.Header().Set("Allow", methods)
		return errMethod
	}
}

// serve answers one request, whatever happens.
func (s *Server) serve(rt *route, w http.ResponseWriter, r *http.Request) {
	x := &visit{w: w, r: r, route: rt, id: requestID(r.Header)}
	w.Header().Set(requestIDHeader, x.id)
	defer s.recovered(x)
	if err := s.answer(x); err != nil {
		s.failed(x, err)
	}
}

// answer does what a request asks for if it may be asked by who asks.
func (s *Server) answer(x *visit) error {
	s.limit(x)
	if err := refuseBrowsers(x.r, x.route.on); err != nil {
		return err
	}
	if x.route.method == "" { // no route at all
		return x.route.handle(s, x)
	}
	if err := s.admit(x); err != nil {
		return err
	}
	if x.r.Method != x.route.method { // HEAD, which http.ServeMux takes for GET
		return notAllowed(x.route.method)(s, x)
	}
	ctx := rotation.WithRequest(withRequestID(x.r.Context(), x.id), x.id)
	ctx, cancel := context.WithTimeout(ctx, x.route.within)
	defer cancel()
	x.r = x.r.WithContext(ctx)
	if err := x.checkNames(); err != nil {
		return err
	}
	if err := x.readQuery(); err != nil {
		return err
	}
	if err := x.readBody(); err != nil {
		return err
	}
	return x.route.handle(s, x)
}

// limit bounds how long the peer may take over the body and over the answer.
// The server's own limits would not do: they cover the handler too. net/http
// takes the body's back when it has seen the body's end.
func (s *Server) limit(x *visit) {
	control := http.NewResponseController(x.w)
	now := time.Now()
	if x.r.ContentLength != 0 {
		_ = control.SetReadDeadline(now.Add(s.cfg.BodyTimeout)) // a connection that is gone fails where it is read
	}
	_ = control.SetWriteDeadline(now.Add(x.route.within + s.cfg.BodyTimeout))
}

// refuseBrowsers: a web page can make its browser send requests to a loopback
// port, and name it as it likes (DNS rebinding). None can leave these headers
// out.
func refuseBrowsers(r *http.Request, on door) error {
	for name := range r.Header {
		if name == "Origin" || strings.HasPrefix(name, "Sec-Fetch-") {
			return errBrowser
		}
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	switch strings.ToLower(host) {
	case "", "keyd", "localhost":
		return nil
	}
	if ip := net.ParseIP(strings.Trim(host, "[]")); on == monitorPort && ip != nil && ip.IsLoopback() {
		return nil
	}
	return errBrowser
}

// admit finds the role in which the caller may use the route.
func (s *Server) admit(x *visit) error {
	if len(x.route.roles) == 0 {
		return nil
	}
	p, ok := x.r.Context().Value(peerKey{}).(peer)
	x.actor = s.callers.identify(p, ok)
	role, may := s.callers.role(x.actor, x.route.roles, x.r.PathValue("partner"))
	x.actor.Role = string(role)
	switch {
	case may:
		return nil
	case x.route.on == clientSocket:
		return errNotClient
	}
	return errForbidden
}

// head says what the body will be.
func (x *visit) head(contentType string, length int) {
	h := x.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(length))
}

// respond sends a whole answer.
func (x *visit) respond(status int, contentType string, body []byte) {
	x.began = true
	x.head(contentType, len(body))
	x.w.WriteHeader(status)
	_, _ = x.w.Write(body) // whoever asked has gone
}

// respondSecret sends a whole answer past the buffers of net/http, and wipes its
// body. In tests, which have another writer, it goes through them.
func (x *visit) respondSecret(contentType string, body []byte) {
	defer clear(body)
	to, direct := x.w.(io.ReaderFrom)
	conn, ours := x.r.Context().Value(connKey{}).(*counted)
	if !direct || !ours || len(body) == 0 {
		x.respond(http.StatusOK, contentType, body)
		return
	}
	x.began = true
	x.head(contentType, len(body))
	conn.holding = true
	x.w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(x.w).Flush(); err == nil {
		_, _ = to.ReadFrom(&secretBody{body}) // whoever asked has gone
	}
	conn.holding = false
}

// json sends a document.
func (x *visit) json(v any) error {
	x.respond(http.StatusOK, "application/json", encode(v))
	return nil
}

// failed answers with a problem, and sees that it is known of.
func (s *Server) failed(x *visit, err error) {
	if x.began {
		// Part of the answer is out; only a broken connection still says so.
		s.log.ErrorContext(x.r.Context(), "an answer was broken off", "request", x.id, "action", x.route.action, "err", err)
		panic(http.ErrAbortHandler)
	}
	s.audit.note(err)
	err = s.recordRefusal(x, err)
	p := x.refuse(err)
	level := slog.LevelDebug
	switch {
	case p.Status >= 500:
		level = slog.LevelError
	case p.Status == http.StatusForbidden:
		level = slog.LevelWarn
	}
	s.log.Log(x.r.Context(), level, "refused a request", "request", x.id, "action", x.route.action,
		"status", p.Status, "code", p.Code, "caller", x.actor.String(), "err", err)
}

// recovered turns a panic into an answer.
func (s *Server) recovered(x *visit) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler || x.began { //nolint:errorlint // panic values are compared as net/http does
		panic(http.ErrAbortHandler)
	}
	s.log.ErrorContext(x.r.Context(), "a request made keyd panic", "request", x.id, "action", x.route.action,
		"panic", v, "stack", string(debug.Stack()))
	x.refuse(errors.New("panic"))
}

type requestIDKey struct{}

func withRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// requestIDFrom is the request that something is done for; "" for none.
func requestIDFrom(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// requestID takes the caller's own if it can stand in a log, or makes one.
func requestID(h http.Header) string {
	for _, name := range []string{requestIDHeader, "X-Request-Id"} {
		id := h.Get(name)
		if id != "" && len(id) <= 64 && strings.IndexFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) < 0 {
			return id
		}
	}
	return uuid.NewString()
}
