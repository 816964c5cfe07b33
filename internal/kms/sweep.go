package kms

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"keyd/internal/boundary"
)

// stray is a key with this instance's tags and without an alias.
type stray struct{ arn, kid string }

// readers is how many keys are looked at at once; the budget holds as well.
const readers = 8

// strays looks at the tags of every key in the account that has no alias: of
// few keys, as consoles and templates give one to each. What may not be looked
// at is not ours, since our permissions are for what is.
func (b *Backend) strays(ctx context.Context, aliases []types.AliasListEntry) ([]stray, error) {
	has := map[string]bool{}
	for _, a := range aliases {
		has[deref(a.TargetKeyId)] = true
	}
	keys, err := b.keys(ctx)
	if err != nil {
		return nil, err
	}
	keys = slices.DeleteFunc(keys, func(k types.KeyListEntry) bool { return has[deref(k.KeyId)] })
	found := make([]stray, len(keys))
	denied := 0
	var mu sync.Mutex
	err = each(ctx, len(keys), func(ctx context.Context, i int) error {
		tags, err := b.tags(ctx, deref(keys[i].KeyId))
		switch {
		case errors.Is(err, ErrDenied):
			mu.Lock()
			denied++
			mu.Unlock()
			return nil
		case errors.Is(err, boundary.ErrNoKey):
			return nil
		case err == nil && tags[tagInstance] == b.cfg.Instance:
			found[i] = stray{deref(keys[i].KeyArn), tags[tagKID]}
		}
		return err
	})
	if denied > 0 {
		b.cfg.Logger.InfoContext(ctx, "keys whose tags AWS does not show were taken for somebody else's", "backend", b.cfg.Name, "keys", denied)
	}
	return slices.DeleteFunc(found, func(s stray) bool { return s.arn == "" }), err
}

// keys reads the account's keys in this Region.
func (b *Backend) keys(ctx context.Context) ([]types.KeyListEntry, error) {
	var all []types.KeyListEntry
	for marker, more := (*string)(nil), true; more; {
		out, err := call(ctx, b, reading, "ListKeys", b.client.ListKeys, &kms.ListKeysInput{Limit: aws.Int32(1000), Marker: marker})
		if err != nil {
			return nil, err
		}
		all = append(all, out.Keys...)
		marker, more = out.NextMarker, out.Truncated
	}
	return all, nil
}

// each does n things, a few at once, and stops at the first error.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(n, readers) {
		wg.Go(func() {
			for i := range next {
				if ctx.Err() != nil {
					continue
				}
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}
