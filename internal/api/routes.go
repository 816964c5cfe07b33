package api

import (
	"time"

	"keyd/internal/evidence"
)

// door is where a route is served.
type door int

const (
	clientSocket door = iota
	adminSocket
	monitorPort
)

// route is one thing that can be asked of keyd.
type route struct {
	method  string
	pattern string // of http.ServeMux
	on      door
	roles   []Role // one is enough; none: the listener is open to everybody
	action  string // what the audit log calls it
	query   []string
	maxBody int64 // 0: it takes none
	within  time.Duration
	handle  func(*Server, *visit) error
}

// opens reports whether the route takes envelopes to open.
func (r *route) opens() bool { return r.action == "decrypt" }

var (
	forClients   = []Role{RoleClient}
	forCallers   = []Role{RoleCaller}
	forEither    = []Role{RoleClient, RoleCaller}
	forOperators = []Role{RoleOperator}
	forReaders   = []Role{RoleOperator, RoleAuditor}
)

const (
	jsonBody    = 16 << 10
	manyHandles = 64 << 10
	quick       = 10 * time.Second
	slow        = time.Minute      // asks a backend or a partner
	lengthy     = 10 * time.Minute // reads everything there is
)

// callBody is how large the document of a call may be, so that a plaintext fits
// in it whichever way it is written.
func callBody(plaintext int64) int64 { return 2*plaintext + 64<<10 }

// routes is the table of everything that can be asked. docs/openapi.yaml and
// docs/api.md are held against it.
func (s *Server) routes() []route {
	changes := []string{"dry_run"}
	envelope, plaintext := int64(s.cfg.Opener.cfg.MaxEnvelope), s.cfg.MaxPlaintext
	return []route{
		{"POST", "/v1/partners/{partner}/decrypt", clientSocket, forClients, "decrypt", []string{"exchange", "field", "field_json"}, envelope, quick, (*Server).decrypt},
		{"POST", "/v1/partners/{partner}/encrypt", clientSocket, forClients, "encrypt", []string{"url", "method", "refetch", "direct", "ephemeral", "field", "public_key_at", "form"}, plaintext, slow, (*Server).encrypt},
		{"POST", "/v1/partners/{partner}/call", clientSocket, forCallers, "call", nil, callBody(plaintext), lengthy, (*Server).call},
		{"GET", "/v1/partners/{partner}/jwks", clientSocket, forEither, "partner.jwks", nil, 0, quick, (*Server).jwks},
		{"GET", "/v1/partners/{partner}", clientSocket, forEither, "partner.show", nil, 0, quick, (*Server).showPartner},

		{"GET", "/v1/status", adminSocket, forReaders, "status", nil, 0, quick, (*Server).status},
		{"GET", "/v1/doctor", adminSocket, forReaders, "doctor", nil, 0, lengthy, (*Server).doctor},
		{"GET", "/v1/version", adminSocket, forReaders, "version", nil, 0, quick, (*Server).version},

		{"GET", "/v1/keys", adminSocket, forReaders, "key.list", nil, 0, quick, (*Server).listKeys},
		{"POST", "/v1/keys", adminSocket, forOperators, "key.create", changes, jsonBody, slow, (*Server).createKey},
		{"GET", "/v1/keys/{key}", adminSocket, forReaders, "key.show", nil, 0, quick, (*Server).showKey},
		{"GET", "/v1/keys/{key}/evidence", adminSocket, forReaders, evidence.Action, nil, 0, lengthy, (*Server).exportEvidence},
		{"POST", "/v1/keys/{key}/rotate", adminSocket, forOperators, "key.rotate", changes, 0, slow, (*Server).rotateKey},
		{"POST", "/v1/keys/{key}/adopt", adminSocket, forOperators, "key.adopt", changes, jsonBody, slow, (*Server).adoptKey},

		{"GET", "/v1/versions/{kid}", adminSocket, forReaders, "version.show", nil, 0, quick, (*Server).showVersion},
		{"POST", "/v1/versions/{kid}/confirm", adminSocket, forOperators, "key.confirm", changes, jsonBody, slow, (*Server).confirmVersion},
		{"POST", "/v1/versions/{kid}/activate", adminSocket, forOperators, "key.activate", changes, jsonBody, slow, (*Server).activateVersion},
		{"POST", "/v1/versions/{kid}/compromise", adminSocket, forOperators, "key.compromise", changes, jsonBody, slow, (*Server).compromiseVersion},
		{"POST", "/v1/versions/{kid}/destroy", adminSocket, forOperators, "key.close", changes, jsonBody, slow, (*Server).destroyVersion},
		{"POST", "/v1/versions/{kid}/rescue", adminSocket, forOperators, "key.rescue", changes, jsonBody, slow, (*Server).rescueVersion},

		{"GET", "/v1/partners", adminSocket, forReaders, "partner.list", nil, 0, quick, (*Server).listPartners},
		{"GET", "/v1/partners/{partner}/jwks", adminSocket, forReaders, "partner.jwks", nil, 0, quick, (*Server).jwks},
		{"GET", "/v1/partners/{partner}", adminSocket, forReaders, "partner.show", nil, 0, quick, (*Server).showPartner},
		{"POST", "/v1/partners/{partner}/refresh", adminSocket, forOperators, "partner.fetch-key", changes, 0, slow, (*Server).refreshPartner},

		{"GET", "/v1/backends/{backend}/orphans", adminSocket, forReaders, "orphan.list", nil, 0, lengthy, (*Server).listOrphans},
		{"POST", "/v1/backends/{backend}/orphans/destroy", adminSocket, forOperators, "orphan.destroy", changes, manyHandles, lengthy, (*Server).destroyOrphans},

		{"GET", "/v1/audit", adminSocket, forReaders, "audit.read", []string{"after", "limit", "tail"}, 0, quick, (*Server).readAudit},
		{"GET", "/v1/audit/verify", adminSocket, forReaders, "audit.verify", nil, 0, lengthy, (*Server).verifyAudit},
		{"GET", "/v1/backup", adminSocket, forReaders, "registry.backup", nil, 0, lengthy, (*Server).backup},

		{"GET", "/metrics", monitorPort, nil, "metrics", nil, 0, quick, (*Server).metrics},
		{"GET", "/healthz", monitorPort, nil, "healthz", nil, 0, quick, (*Server).healthz},
		{"GET", "/readyz", monitorPort, nil, "readyz", nil, 0, quick, (*Server).readyz},
	}
}
