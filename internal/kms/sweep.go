package kms

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"keyd/internal/boundary"
)

// stray is a key with this instance's tags and without an alias.
type stray struct{ arn, kid string }

// A key that is somebody else's stays so: keyd's carry its tags from the moment
// they are made. It is looked at again after a day all the same, as AWS is
// eventually consistent, and people move tags; one whose tags may not be read,
// after ten minutes, as permissions by tag take five to be effective.
const (
	foreignFor = 24 * time.Hour
	deniedFor  = 10 * time.Minute
)

// unknown leaves out the keys that are known to be somebody else's.
func (b *Backend) unknown(keys []types.KeyListEntry, named map[string]bool) []types.KeyListEntry {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(b.theirs, func(_ string, until time.Time) bool { return now.After(until) })
	return slices.DeleteFunc(keys, func(k types.KeyListEntry) bool {
		_, known := b.theirs[deref(k.KeyId)]
		return known || named[deref(k.KeyId)]
	})
}

func (b *Backend) foreign(id string, until time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.theirs[id] = time.Now().Add(until)
}

// readers is how many keys are looked at at once; the budget holds as well.
const readers = 8

// strays looks at the tags of every key in the account that has no alias: of
// few keys, as consoles and templates give one to each, and of each once in a
// day. What may not be looked at is not ours, since our permissions are for
// what is.
func (b *Backend) strays(ctx context.Context, aliases []types.AliasListEntry) ([]stray, error) {
	has := map[string]bool{}
	for _, a := range aliases {
		has[deref(a.TargetKeyId)] = true
	}
	keys, err := b.keys(ctx)
	if err != nil {
		return nil, err
	}
	keys = b.unknown(keys, has)
	found := make([]stray, len(keys))
	denied := 0
	var mu sync.Mutex
	err = each(ctx, len(keys), func(ctx context.Context, i int) error {
		id := deref(keys[i].KeyId)
		tags, err := b.tags(ctx, id)
		switch {
		case errors.Is(err, ErrDenied):
			b.foreign(id, deniedFor)
			mu.Lock()
			denied++
			mu.Unlock()
			return nil
		case errors.Is(err, boundary.ErrNoKey):
			return nil
		case err == nil && tags[tagInstance] == b.cfg.Instance:
			found[i] = stray{deref(keys[i].KeyArn), tags[tagKID]}
		case err == nil:
			b.foreign(id, foreignFor)
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
		out, err := call(ctx, b, listing, "ListKeys", b.client.ListKeys, &kms.ListKeysInput{Limit: aws.Int32(1000), Marker: marker})
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
