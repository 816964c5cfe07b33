package kms

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"keyd/internal/boundary"
)

// method is one of the client's operations.
type method[In, Out any] func(context.Context, *In, ...func(*kms.Options)) (*Out, error)

// call makes one call to KMS with all that belongs to it: its turn, its
// deadline, its observer, and errors in keyd's words.
func call[In, Out any](ctx context.Context, b *Backend, f family, op string, do method[In, Out], in *In, options ...func(*kms.Options)) (*Out, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	limited, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	asked, budget := time.Now(), b.budgets[f]
	err := budget.turn(limited, f.patience(b.cfg.Timeout))
	sent := time.Now()
	var out *Out
	if err == nil {
		within := func(o *kms.Options) { o.Retryer = &retries{RetryerV2: b.retryer, budget: budget} }
		out, err = do(limited, in, append([]func(*kms.Options){within}, options...)...)
		if err != nil {
			err = explain(ctx, err)
		}
		b.noteAnswer(ctx, err)
	}
	if b.cfg.Observe != nil {
		b.cfg.Observe(op, sent.Sub(asked), time.Since(sent), err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	return out, nil
}

// noteAnswer keeps, for Health, whether KMS answers. What it says of one key
// is an answer too.
func (b *Backend) noteAnswer(ctx context.Context, err error) {
	switch {
	case err == nil || errors.Is(err, boundary.ErrNoKey) || errors.Is(err, boundary.ErrDisabled):
		b.well.Store(time.Now().UnixNano())
	case errors.Is(err, boundary.ErrUnavailable) && ctx.Err() == nil:
		b.well.Store(0)
	}
}

// checkHandle holds a handle to the one form in which KMS names a key of this
// Region. For any other, KMS would say "not found", and that would be taken
// for "deleted".
func (b *Backend) checkHandle(handle string) error {
	parts := keyARN.FindStringSubmatch(handle)
	if parts == nil || parts[1] != b.cfg.Region {
		return fmt.Errorf("handle %.100q: %w", handle, ErrElsewhere)
	}
	return nil
}

// describe reads what KMS says of a key, by id, ARN or alias.
func (b *Backend) describe(ctx context.Context, id string) (*types.KeyMetadata, error) {
	out, err := call(ctx, b, looking, "DescribeKey", b.client.DescribeKey, &kms.DescribeKeyInput{KeyId: &id})
	if err != nil {
		return nil, err
	}
	if out.KeyMetadata == nil || out.KeyMetadata.Arn == nil || out.KeyMetadata.KeyId == nil {
		return nil, fmt.Errorf("DescribeKey: %w: the answer describes no key", ErrUnreachable)
	}
	return out.KeyMetadata, nil
}

// leaving reports whether a key's deletion is scheduled.
func leaving(state types.KeyState) bool {
	return state == types.KeyStatePendingDeletion || state == types.KeyStatePendingReplicaDeletion
}

// clarify asks what KMSInvalidStateException meant: KMS says it of a key
// whose deletion is scheduled, and of one that cannot be used for a while.
func (b *Backend) clarify(ctx context.Context, id string, err error) error {
	if _, ok := errors.AsType[*types.KMSInvalidStateException](err); !ok {
		return err
	}
	key, second := b.describe(ctx, id)
	switch {
	case errors.Is(second, boundary.ErrNoKey):
		return second
	case second == nil && leaving(key.KeyState):
		return ErrPendingDeletion
	}
	return err
}

// tags reads a key's tags. A KMS key has at most 50, which is one page.
func (b *Backend) tags(ctx context.Context, id string) (map[string]string, error) {
	tags := map[string]string{}
	for marker, more := (*string)(nil), true; more; {
		out, err := call(ctx, b, looking, "ListResourceTags", b.client.ListResourceTags, &kms.ListResourceTagsInput{KeyId: &id, Marker: marker})
		if err != nil {
			return nil, err
		}
		for _, tag := range out.Tags {
			tags[deref(tag.TagKey)] = deref(tag.TagValue)
		}
		marker, more = out.NextMarker, out.Truncated
	}
	return tags, nil
}

// aliases reads the aliases of a key, or all of them.
func (b *Backend) aliases(ctx context.Context, id *string) ([]types.AliasListEntry, error) {
	var all []types.AliasListEntry
	size := int32(100)
	for marker, more := (*string)(nil), true; more; {
		out, err := call(ctx, b, listing, "ListAliases", b.client.ListAliases, &kms.ListAliasesInput{KeyId: id, Limit: &size, Marker: marker})
		if err != nil {
			return nil, err
		}
		all = append(all, out.Aliases...)
		marker, more = out.NextMarker, out.Truncated
	}
	return all, nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
