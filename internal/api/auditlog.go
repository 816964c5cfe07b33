package api

import (
	"encoding/json"
	"errors"
	"fmt"

	"keyd/internal/audit"
)

// mostEntries is how many entries one answer holds.
const mostEntries = 1000

// readAudit returns entries as they stand in the log.
func (s *Server) readAudit(x *visit) error {
	tail, err1 := x.number("tail", 100, mostEntries)
	after, err2 := x.number("after", 0, 1<<63)
	limit, err3 := x.number("limit", 100, mostEntries)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	forward := x.query.Has("after") || x.query.Has("limit")
	if forward && x.query.Has("tail") {
		return fmt.Errorf("%w: either tail, or after and limit", errBadRequest)
	}
	var entries []audit.Entry
	var err error
	switch {
	case !forward:
		entries, err = audit.Tail(s.cfg.AuditPath, int(tail))
	case limit > 0: // to Read, 0 is all
		entries, err = audit.Read(s.cfg.AuditPath, after, int(limit))
	}
	if err != nil {
		return err
	}
	raw := make([]json.RawMessage, 0, len(entries))
	for _, e := range entries {
		raw = append(raw, e.Raw)
	}
	return x.json(raw)
}

// verification is the answer of GET /v1/audit/verify: client.AuditReport with
// the audit log's own report.
type verification struct {
	OK     bool         `json:"ok"`
	Broken string       `json:"broken,omitempty"`
	Report audit.Report `json:"report"`
}

// verifyAudit verifies the whole log. That it is broken is an answer, not a
// failure to give one.
func (s *Server) verifyAudit(x *visit) error {
	report, err := audit.Verify(s.cfg.AuditPath, nil)
	if err != nil && !errors.Is(err, audit.ErrBroken) {
		return err
	}
	v := verification{OK: err == nil, Report: report}
	if err != nil {
		v.Broken = err.Error()
	}
	return x.json(v)
}
