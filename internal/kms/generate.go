package kms

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"keyd/internal/boundary"
)

// canonical is a UUID in its one usual form.
var canonical = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// Generate makes the key pair that spec names, or adopts the one that an
// earlier run made and could not tell of.
func (b *Backend) Generate(ctx context.Context, spec boundary.Spec) (boundary.Generated, error) {
	g, err := b.generate(ctx, spec)
	if err != nil {
		return boundary.Generated{}, fmt.Errorf("generating a key: %w", err)
	}
	return g, nil
}

func (b *Backend) generate(ctx context.Context, spec boundary.Spec) (boundary.Generated, error) {
	none := boundary.Generated{}
	if err := spec.Check(); err != nil {
		return none, err
	}
	if !canonical.MatchString(spec.KID) || spec.Key == "" || len(spec.Key) > 256 {
		return none, fmt.Errorf("key %.300q, kid %.64q: want a name of at most 256 bytes and a UUID in lower case", spec.Key, spec.KID)
	}
	key, at, err := b.own(ctx, spec.KID)
	if err != nil {
		return none, err
	}
	if key == nil {
		if key, err = b.create(ctx, spec); err != nil {
			return none, err
		}
	}
	if key.KeySpec != specOf(spec.Material) || key.KeyUsage != usages[spec.Algorithm] {
		return none, fmt.Errorf("%s was made for %s as a key of %s for %s, and one of %s for %s is asked for",
			*key.Arn, spec.KID, key.KeySpec, key.KeyUsage, specOf(spec.Material), usages[spec.Algorithm])
	}
	if at != named {
		if err := b.name(ctx, spec.KID, *key.Arn, at == taken); err != nil {
			return none, err
		}
	}
	public, err := b.public(ctx, *key.Arn)
	if err != nil {
		return none, err
	}
	return boundary.Generated{Handle: *key.Arn, Public: public, Evidence: b.evidence(key)}, nil
}

// create makes a key. It is asked for once: the SDK would repeat a request
// whose answer was lost, and each repetition is one more key. The next run
// finds by its tags what was made after all.
func (b *Backend) create(ctx context.Context, spec boundary.Spec) (*types.KeyMetadata, error) {
	tags := maps.Clone(b.cfg.Tags)
	if tags == nil {
		tags = map[string]string{}
	}
	tags[tagInstance], tags[tagKey], tags[tagKID] = b.cfg.Instance, spec.Key, spec.KID
	in := &kms.CreateKeyInput{KeySpec: specOf(spec.Material), KeyUsage: usages[spec.Algorithm], Origin: types.OriginTypeAwsKms,
		MultiRegion: &b.cfg.MultiRegion, Description: aws.String(b.description() + spec.Key + "/" + spec.KID)}
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		in.Tags = append(in.Tags, types.Tag{TagKey: aws.String(name), TagValue: aws.String(tags[name])})
	}
	if b.cfg.Policy != "" {
		in.Policy = &b.cfg.Policy
	}
	out, err := call(ctx, b, changing, "CreateKey", b.client.CreateKey, in, func(o *kms.Options) { o.Retryer = aws.NopRetryer{} })
	if err != nil {
		return nil, err
	}
	key := out.KeyMetadata
	if key == nil || key.Arn == nil || key.KeyId == nil || b.checkHandle(*key.Arn) != nil {
		return nil, fmt.Errorf("CreateKey: %w: the answer names no key of this Region", ErrUnreachable)
	}
	b.noteAccount(*key.Arn)
	b.mu.Lock()
	b.made[spec.KID] = *key.Arn
	b.mu.Unlock()
	return key, nil
}

// name gives a key the alias of its kid, or moves it there from a key that is
// being deleted.
func (b *Backend) name(ctx context.Context, kid, arn string, move bool) error {
	alias := b.prefix + kid
	if move {
		_, err := call(ctx, b, changing, "UpdateAlias", b.client.UpdateAlias, &kms.UpdateAliasInput{AliasName: &alias, TargetKeyId: &arn})
		return err
	}
	_, err := call(ctx, b, changing, "CreateAlias", b.client.CreateAlias, &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: &arn})
	if _, exists := errors.AsType[*types.AlreadyExistsException](err); !exists {
		return err
	}
	// The SDK repeated a request whose answer was lost, or somebody was faster.
	key, second := b.describe(ctx, alias)
	if second != nil {
		return second
	}
	if *key.Arn != arn {
		return fmt.Errorf("naming %s: %w", arn, err)
	}
	return nil
}

// Discard schedules the deletion of every key that carries the kid's tags.
func (b *Backend) Discard(ctx context.Context, spec boundary.Spec) error {
	if !canonical.MatchString(spec.KID) {
		return nil // no key was ever made under it
	}
	if err := b.discard(ctx, spec.KID); err != nil {
		return fmt.Errorf("discarding %s: %w", spec.KID, err)
	}
	return nil
}

func (b *Backend) discard(ctx context.Context, kid string) error {
	key, _, err := b.byAlias(ctx, kid)
	if errors.Is(err, errNotOurs) {
		b.leftAlone(ctx, err)
	} else if err != nil {
		return err
	}
	keys, err := b.unnamed(ctx, kid)
	if err != nil {
		return err
	}
	if key != nil {
		keys = append(keys, key)
	}
	for _, key := range keys { // what this process made and named comes twice
		if err := b.schedule(ctx, *key.Arn); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.made, kid)
	return nil
}
