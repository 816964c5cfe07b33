package hsm

import (
	"context"
	"time"

	"github.com/miekg/pkcs11"
)

// SlowHash exposes slowHash.
func SlowHash(pin, salt []byte) []byte { return slowHash(pin, salt) }

// HasVerdict reports whether a return code is in the table.
func HasVerdict(code uint) bool { _, ok := codes[pkcs11.Error(code)]; return ok }

// MostWaiting is how many wait for a session of the pool.
func MostWaiting(t *Token) int { return int(t.pool.most) }

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
