package hsm

import "context"

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
