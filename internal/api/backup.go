package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"strconv"

	"github.com/google/uuid"

	"keyd/internal/audit"
)

// snapshot counts and hashes what is sent.
type snapshot struct {
	x    *visit
	hash hash.Hash
	size int64
}

func (s *snapshot) Write(b []byte) (int, error) {
	if err := s.x.r.Context().Err(); err != nil {
		return 0, err
	}
	if !s.x.began {
		s.x.began = true
		h := s.x.w.Header()
		h.Set("Content-Type", "application/octet-stream")
		h.Set("Cache-Control", "no-store")
		h.Set("Trailer", "Keyd-Sha256")
		s.x.w.WriteHeader(http.StatusOK)
	}
	n, err := s.x.w.Write(b)
	s.hash.Write(b[:n])
	s.size += int64(n)
	return n, err
}

// backup sends a copy of the registry. Who takes one is on record before it
// leaves.
func (s *Server) backup(x *visit) error {
	ctx := x.r.Context()
	e := audit.Entry{Op: uuid.NewString(), Phase: audit.PhaseIntent, Action: x.route.action, Actor: x.actor,
		Detail: map[string]string{"request": x.id}}
	if _, err := s.audit.Append(ctx, e); err != nil {
		return fmt.Errorf("%w: %w", ErrAudit, err)
	}
	copied := &snapshot{x: x, hash: sha256.New()}
	failure := s.cfg.Registry.Backup(copied)
	sum := hex.EncodeToString(copied.hash.Sum(nil))
	e.Phase, e.Result = audit.PhaseOutcome, audit.ResultOK
	e.Detail = map[string]string{"request": x.id, "bytes": strconv.FormatInt(copied.size, 10), "sha256": sum}
	if failure != nil {
		e.Result, e.Code = audit.ResultFailed, kindOf(failure).code
		e.Detail["error"] = failure.Error()
	}
	if _, err := s.audit.Append(context.WithoutCancel(ctx), e); err != nil {
		failure = errors.Join(failure, fmt.Errorf("%w: %w", ErrAudit, err))
	}
	if failure != nil {
		return failure // without its sum, what was sent is no backup
	}
	x.w.Header().Set("Keyd-Sha256", sum)
	return nil
}
