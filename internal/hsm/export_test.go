package hsm

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/miekg/pkcs11"
)

// SlowHash exposes slowHash.
func SlowHash(pin, salt []byte) []byte { return slowHash(pin, salt) }

// HasVerdict reports whether a return code is in the table.
func HasVerdict(code uint) bool { _, ok := codes[pkcs11.Error(code)]; return ok }

// MostWaiting is how many wait for a session of the pool.
func MostWaiting(t *Token) int { return int(t.pool.most) }

// Waiting is how many wait for a session of the pool, and for that of management.
func Waiting(t *Token) (pool, manage int) {
	return int(t.pool.waiting.Load()), int(t.manage.waiting.Load())
}

// Managing reports whether somebody has the session of management.
func Managing(t *Token) bool { return len(t.manage.slots) < cap(t.manage.slots) }

// Settled reports whether nobody has a session. One is closed after its turn has
// been answered.
func Settled(t *Token) bool {
	for _, l := range []*lane{t.pool, t.hold, t.manage, t.check} {
		if l.inUse() > 0 {
			return false
		}
	}
	return true
}

// Await exposes await.
func Await[T any](ctx context.Context, f func(send func(T, error)), drop func(T)) (T, error) {
	return await(ctx, f, drop)
}

// ParseHandle exposes parseHandle.
func ParseHandle(handle string) (id, label string, err error) {
	n, err := parseHandle(handle)
	return n.id, n.label, err
}

// FormatHandle exposes name.handle.
func FormatHandle(id, label string) string { return name{id: id, label: label}.handle() }

// LimitManagement changes how long a management operation may take.
func LimitManagement(t *Token, slow, limit time.Duration) {
	t.manage.slow.set(slow)
	t.manage.limit.set(limit)
}

// LimitLogins changes in what time a token is logged in to again so often and no
// more.
func LimitLogins(t *Token, span time.Duration) { t.loginSpan.set(span) }

// LookAtAll reads every key object with one call and part by part, and says
// where the two differ, and how many private keys one call was enough for.
func LookAtAll(t *Token) (looked int, differences []string) {
	_, err := run(context.Background(), t, t.manage, "look", func(u *use) (struct{}, error) {
		for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY} {
			handles, err := t.find(u.session, ofClass(class))
			if err != nil {
				return struct{}{}, err
			}
			for _, h := range handles {
				slow, err := t.readSlowly(u.session, h)
				if err != nil {
					return struct{}{}, err
				}
				quick, ok := t.module.calls.look(u.session, h)
				if !ok {
					continue
				}
				if class == pkcs11.CKO_PRIVATE_KEY {
					looked++
				}
				if !reflect.DeepEqual(quick, slow) {
					differences = append(differences, fmt.Sprintf("one call: %+v, part by part: %+v", quick, slow))
				}
			}
		}
		return struct{}{}, nil
	}, nil)
	if err != nil {
		differences = append(differences, err.Error())
	}
	return looked, differences
}
