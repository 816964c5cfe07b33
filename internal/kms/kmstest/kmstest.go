// Package kmstest pretends to be AWS KMS at the wire: AWS JSON 1.1 over HTTP,
// real RSA and elliptic curve keys, everything in memory. It is written from
// AWS's API reference and shares no code with the client that it tests, so
// that the two disagree where one of them misreads it.
//
// A [Server] is an http.Handler. [Server.Transport] calls it without a socket,
// which is what testing/synctest needs: keys are then deleted in fake days.
//
// What it leaves out: grants, symmetric and HMAC keys, signing with elliptic
// curves, imported material, replicas of multi-Region keys, and the minutes that
// real tags and policies take to become effective. A request that asks for any
// of it is refused and never answered as if it had been done.
package kmstest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Options say where and how large the KMS is. The zero value will do.
type Options struct {
	Region  string // default us-east-1
	Account string // default 111122223333
	// PageSize caps every page of a listing below AWS's own limits, so that
	// paging shows with few keys. 0 is AWS's limits.
	PageSize int
	// Quotas are requests per second by operation, such as "CreateKey", or by
	// the kind of key that cryptographic operations share one of, RSA and ECC;
	// past them requests are throttled. None by default; AWS's own are Quotas.
	Quotas map[string]int
	// Logger, if set, gets a line per request. Nothing that a request or an
	// answer holds is in it.
	Logger *slog.Logger
}

// Server is one account's KMS in one Region.
type Server struct {
	opts Options

	mu        sync.Mutex
	keys      map[string]*key // by key id
	aliases   map[string]*alias
	throttled int
	leaving   int         // keys that are pending deletion
	drawn     map[int]int // RSA keys handed out, by size
	calls     map[string]int
	faults    []*Fault
	denied    map[string]bool
	grants    map[string]grant // by operation: those that a tag of the key allows
	meters    map[string]*meter
}

// New makes an empty KMS.
func New(opts Options) *Server {
	if opts.Region == "" {
		opts.Region = "us-east-1"
	}
	if opts.Account == "" {
		opts.Account = "111122223333"
	}
	return &Server{opts: opts, keys: map[string]*key{}, aliases: map[string]*alias{}, drawn: map[int]int{},
		calls: map[string]int{}, denied: map[string]bool{}, grants: map[string]grant{}, meters: map[string]*meter{}}
}

// operation is one TrentService operation: JSON in, a value to encode out.
type operation func(s *Server, body []byte) (any, error)

// operations is everything pretended.
var operations = map[string]operation{
	"CancelKeyDeletion":   on((*Server).cancelKeyDeletion),
	"CreateAlias":         on((*Server).createAlias),
	"CreateKey":           on((*Server).createKey),
	"Decrypt":             on((*Server).decrypt),
	"DeleteAlias":         on((*Server).deleteAlias),
	"DeriveSharedSecret":  on((*Server).deriveSharedSecret),
	"DescribeKey":         on((*Server).describeKey),
	"DisableKey":          on((*Server).disableKey),
	"EnableKey":           on((*Server).enableKey),
	"GetPublicKey":        on((*Server).getPublicKey),
	"ListAliases":         on((*Server).listAliases),
	"ListKeys":            on((*Server).listKeys),
	"ListResourceTags":    on((*Server).listResourceTags),
	"ScheduleKeyDeletion": on((*Server).scheduleKeyDeletion),
	"Sign":                on((*Server).sign),
	"TagResource":         on((*Server).tagResource),
	"UpdateAlias":         on((*Server).updateAlias),
}

// Pretends reports whether there is an operation of that name.
func Pretends(operation string) bool { return operations[operation] != nil }

// on reads an operation's input. AWS ignores members it does not know; here
// they are refused, because what is not pretended must not look done.
func on[In any](do func(*Server, *In) (any, error)) operation {
	return func(s *Server, body []byte) (any, error) {
		var in In
		dec := json.NewDecoder(strings.NewReader(string(body)))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&in); err != nil {
			if strings.Contains(err.Error(), "unknown field") {
				return nil, refuse("UnsupportedOperationException", "kmstest does not pretend this: %v", err)
			}
			return nil, refuse("SerializationException", "%v", err)
		}
		return do(s, &in)
	}
}

// maxBody is above anything that KMS accepts.
const maxBody = 1 << 20

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	id := uuid.NewString()
	w.Header().Set("X-Amzn-RequestId", id)
	name, answer, err := s.serve(r)
	if errors.Is(err, errDropped) {
		panic(http.ErrAbortHandler) // the server cuts the connection
	}
	status, body := http.StatusOK, []byte("{}")
	if err == nil && answer != nil {
		body, err = json.Marshal(answer)
	}
	code := ""
	if err != nil {
		refused, known := errors.AsType[*refusal](err)
		if !known {
			refused = refuse("KMSInternalException", "%v", err)
		}
		status, code = refused.status(), refused.Code
		body, _ = json.Marshal(refused) // two strings
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client has gone
	if s.opts.Logger != nil {
		s.opts.Logger.InfoContext(r.Context(), "request", "operation", name, "status", status, "code", code,
			"request_id", id, "took", time.Since(start))
	}
}

// serve checks a request's frame and runs the operation it names.
func (s *Server) serve(r *http.Request) (name string, answer any, err error) {
	if r.Method != http.MethodPost || r.URL.Path != "/" {
		return "", nil, refuse("UnknownOperationException", "want POST /")
	}
	if got := r.Header.Get("Content-Type"); got != "application/x-amz-json-1.1" {
		return "", nil, refuse("UnknownOperationException", "content type %q", got)
	}
	name, found := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	do, known := operations[name]
	if !found || !known {
		return name, nil, refuse("UnknownOperationException", "kmstest does not pretend %q", r.Header.Get("X-Amz-Target"))
	}
	if err := s.signed(r); err != nil {
		return name, nil, err
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil || len(body) > maxBody {
		return name, nil, refuse("SerializationException", "the request is too large or broke off")
	}
	answer, err = s.faulty(r.Context(), name, func() (any, error) {
		if err := s.granted(name, body); err != nil {
			return nil, err
		}
		return do(s, body)
	})
	return name, answer, err
}

// credential is the Authorization header of Signature Version 4.
var credential = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=[^/,]+/\d{8}/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request, ` +
	`SignedHeaders=([a-z0-9;-]+), Signature=[0-9a-f]{64}$`)

// signed checks that a request is signed for this service and Region and that
// the signature covers what it must. The signature itself is not computed.
func (s *Server) signed(r *http.Request) error {
	header := r.Header.Get("Authorization")
	if header == "" {
		return refuse("MissingAuthenticationTokenException", "Missing Authentication Token")
	}
	parts := credential.FindStringSubmatch(header)
	if parts == nil || r.Header.Get("X-Amz-Date") == "" {
		return refuse("IncompleteSignatureException", "the Authorization header or X-Amz-Date is not of Signature Version 4")
	}
	if parts[1] != s.opts.Region || parts[2] != "kms" {
		return refuse("InvalidSignatureException", "Credential should be scoped to %s/kms, not %s/%s", s.opts.Region, parts[1], parts[2])
	}
	covered := ";" + parts[3] + ";"
	for _, name := range []string{"host", "x-amz-date", "x-amz-target"} {
		if !strings.Contains(covered, ";"+name+";") {
			return refuse("InvalidSignatureException", "the signature does not cover %s", name)
		}
	}
	return nil
}

// refusal is an error as KMS answers it.
type refusal struct {
	Code    string `json:"__type"`
	Message string `json:"message"`
}

func refuse(code, format string, args ...any) *refusal {
	return &refusal{Code: code, Message: fmt.Sprintf(format, args...)}
}

func (r *refusal) Error() string { return r.Code + ": " + r.Message }

func (r *refusal) status() int {
	switch r.Code {
	case "KMSInternalException", "KeyUnavailableException":
		return http.StatusInternalServerError
	case "DependencyTimeoutException", "ServiceUnavailable":
		return http.StatusServiceUnavailable
	}
	return http.StatusBadRequest
}
