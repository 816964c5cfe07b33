package evidence

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"slices"
	"time"

	"keyd/client"
	"keyd/internal/audit"
)

// version is one of a document's, to be held against its entries.
type version struct {
	*client.Version
	in *Verified
}

func (v version) fault(format string, args ...any) { v.in.fault(v.KID, format, args...) }

// hold looks at all of a version that should have a number.
func (v version) hold(number int) {
	if v.Number != number {
		v.fault("it is version %d, in the place of %d", v.Number, number)
	}
	if v.Key != v.in.Bundle.Key.Name {
		v.fault("it is a version of %q", v.Key)
	}
	public := fingerprint(v.PublicPEM)
	if public != v.PublicSHA256 {
		v.fault("its public key has the fingerprint %s, not %s", cmp.Or(public, "of none"), cmp.Or(v.PublicSHA256, "none"))
	}
	if v.Opens && (len(v.Evidence) == 0 || len(v.SelfTest) == 0) {
		v.fault("it is %s without evidence or self-test", v.State)
	}
	v.holdHistory()
	if said, ok := v.holdDocument("evidence", v.Evidence, "key.generate", "key.adopt"); ok && said["public"] != public {
		v.fault("its public key has the fingerprint %s, and the log committed to %s", cmp.Or(public, "of none"), said["public"])
	}
	v.holdDocument("self_test", v.SelfTest, "key.self-test", "key.adopt")
	v.holdPartner()
}

// fingerprint of a public key in PEM; "" for what is none.
func fingerprint(text string) string {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return ""
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}

// beside are the actions that change another version's state beside that of the
// one they name.
var beside = []string{"key.activate", "key.retire"}

// holdHistory holds the changes of a version's state against their entries.
func (v version) holdHistory() {
	at := ""
	for _, event := range v.History {
		if event.From != at {
			v.fault("it became %s from %q, where it was %q", event.To, event.From, at)
		}
		at = event.To
		e, ok := v.in.entries[event.Audit]
		switch {
		case !ok:
			v.fault("it became %s under entry %d, which is not in the document", event.To, event.Audit)
		case e.Phase != audit.PhaseIntent, e.KID != v.KID && !slices.Contains(beside, e.Action):
			v.fault("it became %s under entry %d, which is not the intent of that", event.To, event.Audit)
		case e.Actor.String() != event.By:
			v.fault("it was made %s by %q, and entry %d names %q", event.To, event.By, event.Audit, e.Actor.String())
		}
	}
	if at != v.State {
		v.fault("it is %s, and its history ends in %q", v.State, at)
	}
}

// holdDocument holds what is kept of a key pair against the outcome that
// commits to it, and returns the outcome's details.
func (v version) holdDocument(name string, document json.RawMessage, actions ...string) (said map[string]string, ok bool) {
	if len(document) == 0 {
		return nil, false
	}
	intent, ok := v.in.entries[intentOf(document)]
	if !ok || intent.Phase != audit.PhaseIntent || intent.KID != v.KID || !slices.Contains(actions, intent.Action) {
		v.fault("its %s does not name the entry of the intent that it came of", name)
		return nil, false
	}
	outcome, ok := v.in.outcome(intent)
	switch {
	case !ok:
		v.fault("its %s came of entry %d, which has no outcome", name, intent.Seq)
	case outcome.Detail[name] != audit.Digest(document):
		v.fault("its %s was changed: its digest is not the one in entry %d", name, outcome.Seq)
	}
	return outcome.Detail, ok
}

// intentOf is the entry that a document names; 0 for none.
func intentOf(document json.RawMessage) uint64 {
	var named struct {
		Audit uint64 `json:"audit"`
	}
	if json.Unmarshal(document, &named) != nil {
		return 0
	}
	return named.Audit
}

// holdPartner holds what a version says of the partner against the entries. An
// intent is enough: a crash may have come before its outcome.
func (v version) holdPartner() {
	if !v.ToldAt.IsZero() && !v.tried("key.announce", "key.confirm", "key.adopt") {
		v.fault("the partner is said to have it since %s, and no entry says so", v.ToldAt.Format(time.DateOnly))
	}
	if !v.CanaryAt.IsZero() && !v.tried("key.canary") {
		v.fault("a canary is said to have passed on %s, and no entry says so", v.CanaryAt.Format(time.DateOnly))
	}
	for _, e := range v.in.entries {
		if told := e.Detail["valid_till"]; e.KID == v.KID && told != "" && told != v.ValidTill.UTC().Format(time.RFC3339) {
			v.fault("it is valid till %s, and entry %d told the partner %q", v.ValidTill.Format(time.DateOnly), e.Seq, told)
		}
	}
}

// tried reports whether one of some actions on the version was begun.
func (v version) tried(actions ...string) bool {
	for _, e := range v.in.entries {
		if e.KID == v.KID && e.Phase == audit.PhaseIntent && slices.Contains(actions, e.Action) {
			return true
		}
	}
	return false
}
