package kms

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"keyd/internal/boundary"
)

var (
	aliasARN = regexp.MustCompile(`^arn:aws[a-z-]*:kms:([a-z0-9-]+):[0-9]{12}:alias/[a-zA-Z0-9/_-]{1,250}$`)
	alias    = regexp.MustCompile(`^alias/[a-zA-Z0-9/_-]{1,250}$`)
	multiKey = regexp.MustCompile(`^mrk-[0-9a-f]{32}$`)
	hexID    = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// Find looks for a key by kid, KMS key id, alias or ARN, of the key or of the
// alias.
func (b *Backend) Find(ctx context.Context, query string) (boundary.Found, error) {
	found, err := b.find(ctx, query)
	if err != nil {
		return boundary.Found{}, fmt.Errorf("finding %.100q: %w", query, err)
	}
	return found, nil
}

func (b *Backend) find(ctx context.Context, query string) (boundary.Found, error) {
	err := boundary.ErrNoKey
	for _, name := range b.names(query) {
		var key *types.KeyMetadata
		if key, err = b.describe(ctx, name); err == nil {
			return b.found(ctx, key)
		}
		if !errors.Is(err, boundary.ErrNoKey) {
			return boundary.Found{}, err
		}
	}
	return boundary.Found{}, err
}

// names are the ways in which KMS may know what a query means, the likeliest
// first. A query that KMS could never know has none.
func (b *Backend) names(query string) []string {
	lower := strings.ToLower(query)
	if raw, err := hex.DecodeString(lower); err == nil && hexID.MatchString(lower) {
		lower = fmt.Sprintf("%x-%x-%x-%x-%x", raw[:4], raw[4:6], raw[6:8], raw[8:10], raw[10:])
	}
	switch {
	case canonical.MatchString(lower):
		return []string{b.prefix + lower, lower} // a kid, or the key id of another's key
	case alias.MatchString(query), multiKey.MatchString(query), b.checkHandle(query) == nil:
		return []string{query}
	}
	if parts := aliasARN.FindStringSubmatch(query); parts != nil && parts[1] == b.cfg.Region {
		return []string{query}
	}
	return nil
}

// found reads all there is to know of one key. The tags and aliases of another
// account's key are not ours to read.
func (b *Backend) found(ctx context.Context, key *types.KeyMetadata) (boundary.Found, error) {
	if leaving(key.KeyState) {
		return boundary.Found{}, ErrPendingDeletion
	}
	public, err := b.public(ctx, *key.Arn)
	if err != nil {
		return boundary.Found{}, err
	}
	f := boundary.Found{Handle: *key.Arn, Public: public, Evidence: b.evidence(key)}
	tags, err := b.tags(ctx, *key.Arn)
	if err != nil && !errors.Is(err, ErrDenied) {
		return boundary.Found{}, err
	}
	if f.Managed = tags[tagInstance] == b.cfg.Instance; f.Managed && canonical.MatchString(tags[tagKID]) {
		f.KID = tags[tagKID]
	}
	aliases, err := b.aliases(ctx, key.Arn)
	if err != nil && !errors.Is(err, ErrDenied) {
		return boundary.Found{}, err
	}
	for _, a := range aliases {
		if name := deref(a.AliasName); f.Label == "" || strings.HasPrefix(name, b.prefix) {
			f.Label = name
		}
	}
	return f, nil
}

// List returns this instance's keys: those whose alias says so, and those
// whose tags say so and that have no alias. Keys that are not keyd's are not
// listed: an account's keys are many, and none of keyd's business.
func (b *Backend) List(ctx context.Context) ([]boundary.Found, error) {
	all, err := b.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing keys: %w", err)
	}
	return all, nil
}

func (b *Backend) list(ctx context.Context) ([]boundary.Found, error) {
	aliases, err := b.aliases(ctx, nil)
	if err != nil {
		return nil, err
	}
	strays, err := b.strays(ctx, aliases)
	if err != nil {
		return nil, err
	}
	byARN := map[string]boundary.Found{}
	for _, a := range aliases {
		name := deref(a.AliasName)
		if !strings.HasPrefix(name, b.prefix) || a.TargetKeyId == nil {
			continue
		}
		arn := strings.TrimSuffix(deref(a.AliasArn), name) + "key/" + *a.TargetKeyId
		byARN[arn] = boundary.Found{Handle: arn, Label: name} // whose it is, its tags say
	}
	for _, s := range strays {
		byARN[s.arn] = boundary.Found{Handle: s.arn, KID: s.kid, Managed: true}
	}
	found := slices.SortedFunc(maps.Values(byARN), func(a, b boundary.Found) int { return cmp.Compare(a.Handle, b.Handle) })
	err = each(ctx, len(found), func(ctx context.Context, i int) error { return b.look(ctx, &found[i]) })
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(f boundary.Found) bool { return f.Handle == "" }), nil
}

// look adds whose a key is and its public half, or blanks what is being deleted.
// A key that stands there and does not show its public half is listed without
// it.
func (b *Backend) look(ctx context.Context, f *boundary.Found) error {
	if !f.Managed {
		if err := b.whose(ctx, f); err != nil {
			return err
		}
	}
	key, err := b.describe(ctx, f.Handle)
	switch {
	case !f.Managed && errors.Is(err, ErrDenied):
		return nil // it is not for us to look at
	case errors.Is(err, boundary.ErrNoKey) || err == nil && leaving(key.KeyState):
		*f = boundary.Found{}
		return nil
	case err != nil:
		return err
	}
	f.Evidence = b.evidence(key)
	if err := b.described(key, f.KID); f.Managed && err != nil {
		b.leftAlone(ctx, err)
		f.Managed, f.KID = false, ""
	}
	f.Public, err = b.public(ctx, f.Handle)
	switch {
	case errors.Is(err, boundary.ErrNoKey):
		*f = boundary.Found{}
	case err == nil, errors.Is(err, boundary.ErrDisabled), errors.Is(err, ErrUsage), !f.Managed && errors.Is(err, ErrDenied):
	default:
		return err
	}
	return nil
}

// whose reads from its tags whether a key is this instance's, and for which kid
// it was made. An alias is no proof of either: it can be put on any key.
func (b *Backend) whose(ctx context.Context, f *boundary.Found) error {
	tags, err := b.tags(ctx, f.Handle)
	if err != nil && !errors.Is(err, ErrDenied) && !errors.Is(err, boundary.ErrNoKey) {
		return err
	}
	if f.Managed = tags[tagInstance] == b.cfg.Instance; !f.Managed {
		b.leftAlone(ctx, fmt.Errorf("%w: %s names %s, which does not carry keyd's tags", errNotOurs, f.Label, f.Handle))
		return nil
	}
	if canonical.MatchString(tags[tagKID]) {
		f.KID = tags[tagKID]
	}
	return nil
}
