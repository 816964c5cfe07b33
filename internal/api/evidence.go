package api

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"time"

	"keyd/client"
	"keyd/internal/audit"
	"keyd/internal/evidence"
)

const (
	// collectTries is how often the evidence of a key is collected until nothing
	// moved on meanwhile, and collectAgain how long lies between.
	collectTries = 20
	collectAgain = 250 * time.Millisecond
)

// exportEvidence sends the whole life of a key as one document. That it was
// exported, by whom, and what it says is on record before it leaves.
func (s *Server) exportEvidence(x *visit) error {
	ctx := x.r.Context()
	bundle, err := s.collect(ctx, x.r.PathValue("key"))
	if err != nil {
		return err
	}
	document, digest, err := bundle.Unsealed()
	if err != nil {
		return err
	}
	e := audit.Entry{Phase: audit.PhaseEvent, Action: evidence.Action, Actor: x.actor, Key: bundle.Key.Name, Partner: bundle.Key.Partner,
		Result: audit.ResultOK, Detail: map[string]string{"request": x.id, "sha256": digest,
			"versions": strconv.Itoa(len(bundle.Key.Versions)), "entries": strconv.Itoa(len(bundle.Entries)),
			"up_to": strconv.FormatUint(bundle.Log.Head.Seq, 10)}}
	head, err := s.audit.Append(ctx, e)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAudit, err)
	}
	lines, err := audit.Read(s.cfg.AuditPath, head.Seq-1, 1)
	if err != nil || len(lines) != 1 || lines[0].Seq != head.Seq {
		return fmt.Errorf("reading entry %d, just written: %d entries: %w", head.Seq, len(lines), err)
	}
	x.respond(http.StatusOK, "application/json", evidence.Seal(document, lines[0].Raw))
	return nil
}

// collect reads a key and what the audit log has of it at one moment: what was
// under way while the log was read is waited for.
func (s *Server) collect(ctx context.Context, name string) (evidence.Bundle, error) {
	for range collectTries {
		key, err := s.wholeKey(name)
		if err != nil {
			return evidence.Bundle{}, err
		}
		b := evidence.Bundle{Format: evidence.Format, Instance: s.cfg.Instance, Keyd: s.cfg.Version, At: time.Now().UTC(), Key: key}
		if b.Entries, b.Uses, b.Log, err = evidence.Collect(s.cfg.AuditPath, key); err != nil {
			return evidence.Bundle{}, fmt.Errorf("collecting the evidence of %s: %w", name, err)
		}
		after, err := s.wholeKey(name)
		if err != nil {
			return evidence.Bundle{}, err
		}
		if unmoved(key, after) && b.Settled() {
			return b, nil
		}
		select {
		case <-ctx.Done():
			return evidence.Bundle{}, ctx.Err()
		case <-time.After(collectAgain):
		}
	}
	return evidence.Bundle{}, fmt.Errorf("%w: key %s moves on all the time", errMoving, name)
}

// wholeKey is a key with its versions as it travels.
func (s *Server) wholeKey(name string) (client.Key, error) {
	k, err := s.cfg.Registry.Key(name)
	if err != nil {
		return client.Key{}, err
	}
	return s.keyView(k, true), nil
}

// unmoved reports whether a key is what it was, but for what passes with time
// and with every envelope.
func unmoved(before, after client.Key) bool {
	after.Next = before.Next
	after.Versions = slices.Clone(after.Versions)
	for i := range after.Versions[:min(len(before.Versions), len(after.Versions))] {
		after.Versions[i].LastOpenAt = before.Versions[i].LastOpenAt
	}
	return reflect.DeepEqual(before, after)
}
