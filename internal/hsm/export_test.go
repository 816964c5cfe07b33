package hsm

import "context"

// Await exposes await.
func Await[T any](ctx context.Context, f func(send func(T, error)), drop func(T)) (T, error) {
	return await(ctx, f, drop)
}
