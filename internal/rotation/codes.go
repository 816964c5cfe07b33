package rotation

import (
	"context"
	"errors"

	"keyd/internal/boundary"
	"keyd/internal/registry"
)

// actions are this package's in the audit log.
var actions = map[string]bool{
	"key.create":     true, // a key was added
	"key.policy":     true, // the config gave a key another policy
	"key.rotate":     true, // a new version was written down
	"key.generate":   true,
	"key.self-test":  true,
	"key.announce":   true,
	"key.confirm":    true, // an operator told the partner
	"key.canary":     true,
	"key.activate":   true,
	"key.retire":     true, // an adopted version drains beside the active one
	"key.close":      true, // a version is closed, to be destroyed
	"key.destroy":    true,
	"key.compromise": true,
	"key.disable":    true, // a compromised version's private key was put out of use
	"key.rescue":     true, // an operator called off the deletion of a private key
	"key.adopt":      true,

	"orphan.destroy": true, // an operator named a private key that no version has

	"partner.fetch-key":   true,
	"partner.key-changed": true,
}

// codes are what the audit log calls an error.
var codes = []struct {
	err  error
	code string
}{
	{context.Canceled, "cancelled"},
	{context.DeadlineExceeded, "timeout"},
	{registry.ErrNotFound, "not_found"},
	{registry.ErrExists, "exists"},
	{registry.ErrInFlight, "in_flight"},
	{registry.ErrTransition, "transition"},
	{registry.ErrSecondActive, "second_active"},
	{registry.ErrLastOpenable, "last_openable"},
	{registry.ErrInvalid, "invalid"},
	{ErrInvalid, "invalid"},
	{ErrState, "state"},
	{ErrNeeded, "needed"},
	{ErrNoBackend, "no_backend"},
	{ErrNoPartner, "no_partner"},
	{ErrNoPartnerKey, "no_partner_key"},
	{ErrNotPinned, "partner_key_not_pinned"},
	{ErrBoundary, "boundary"},
	{ErrSelfTest, "self_test"},
	{errPanic, "panic"},
	{boundary.ErrNoKey, "no_key"},
	{boundary.ErrAmbiguous, "ambiguous"},
	{boundary.ErrBusy, "busy"},
	{boundary.ErrDisabled, "disabled"},
	{boundary.ErrUnavailable, "unavailable"},
	{boundary.ErrUnsupported, "unsupported"},
}

func codeOf(err error) string {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return "failed"
}
