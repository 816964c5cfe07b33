package kms

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"keyd/internal/boundary"
)

// standing is how the alias of a kid stands to the kid's key.
type standing int

const (
	free  standing = iota // nobody has it
	taken                 // it names a key that is being deleted
	named                 // it names the kid's key
)

// own finds the key that was made for a kid: by its alias, else by what this
// process remembers, else by its tags. None is no error.
func (b *Backend) own(ctx context.Context, kid string) (*types.KeyMetadata, standing, error) {
	key, at, err := b.byAlias(ctx, kid)
	if err != nil || at == named {
		return key, at, err
	}
	keys, err := b.unnamed(ctx, kid)
	if err != nil || len(keys) == 0 {
		return nil, at, err
	}
	return keys[0], at, nil
}

// byAlias finds the kid's key by its alias. The alias alone is no proof:
// anybody who may make aliases can put one on a key of their own.
func (b *Backend) byAlias(ctx context.Context, kid string) (*types.KeyMetadata, standing, error) {
	key, err := b.describe(ctx, b.prefix+kid)
	switch {
	case errors.Is(err, boundary.ErrNoKey):
		return nil, free, nil
	case err != nil:
		return nil, free, err
	case leaving(key.KeyState):
		return nil, taken, nil
	}
	tags, err := b.tags(ctx, *key.KeyId)
	if err != nil {
		return nil, free, err
	}
	if tags[tagInstance] != b.cfg.Instance || tags[tagKID] != kid {
		return nil, free, fmt.Errorf("%w: the alias %s%s names %s, which does not carry keyd's tags", errNotOurs, b.prefix, kid, *key.Arn)
	}
	if err := b.ours(key, kid); err != nil {
		return nil, free, fmt.Errorf("the alias %s%s: %w", b.prefix, kid, err)
	}
	return key, named, nil
}

// errNotOurs: a key has a name or tags of ours, and was not made by keyd.
var errNotOurs = errors.New("the key was not made by keyd")

// ours reports why a key that carries a kid's tags was not made for the kid. Tags
// are no proof either: whoever may set them need not be one who may make keys, or
// delete them, and would have keyd announce or delete a key of their choice.
func (b *Backend) ours(key *types.KeyMetadata, kid string) error {
	if problems := b.evidence(key).Problems; len(problems) > 0 {
		return fmt.Errorf("%w: %s: %s", errNotOurs, *key.Arn, strings.Join(problems, "; "))
	}
	return b.described(key, kid)
}

// described reports that a key has not the description with which keyd makes
// one for a kid.
func (b *Backend) described(key *types.KeyMetadata, kid string) error {
	d := deref(key.Description)
	if strings.HasPrefix(d, b.description()) && strings.HasSuffix(d, "/"+kid) {
		return nil
	}
	return fmt.Errorf("%w: %s: Description=%.300q", errNotOurs, *key.Arn, d)
}

// description is what those of this instance's keys begin with.
func (b *Backend) description() string { return "keyd/" + b.cfg.Instance + "/" }

// leftAlone logs that something claims to be keyd's, and is not.
func (b *Backend) leftAlone(ctx context.Context, err error) {
	b.cfg.Logger.WarnContext(ctx, "a key that keyd did not make has a name or tags of keyd's; it is left alone", "backend", b.cfg.Name, "err", err)
}

// unnamed finds the keys that were made for a kid and not named, because a
// crash came between.
func (b *Backend) unnamed(ctx context.Context, kid string) ([]*types.KeyMetadata, error) {
	all, err := b.aliases(ctx, nil)
	if err != nil {
		return nil, err
	}
	strays, err := b.strays(ctx, all)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	made := b.made[kid]
	b.mu.Unlock()
	arns := []string{made}
	for _, s := range strays {
		if s.kid == kid && s.arn != made {
			arns = append(arns, s.arn)
		}
	}
	var keys []*types.KeyMetadata
	for _, arn := range arns {
		if arn == "" {
			continue
		}
		key, err := b.describe(ctx, arn)
		switch {
		case errors.Is(err, boundary.ErrNoKey) && arn == made:
			// AWS takes a while to show a new key to everybody.
			return nil, fmt.Errorf("%w: it made %s and does not show it yet", boundary.ErrUnavailable, arn)
		case errors.Is(err, boundary.ErrNoKey): // it was deleted meanwhile
		case err != nil:
			return nil, err
		case leaving(key.KeyState):
		default:
			if err := b.ours(key, kid); err != nil {
				b.leftAlone(ctx, err)
				continue
			}
			keys = append(keys, key)
		}
	}
	return keys, nil
}
