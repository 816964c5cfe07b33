package registry

import "io"

// Engine keeps the registry's records: named buckets of named values. It knows
// nothing of what they mean, and the rules know nothing of how they are kept.
//
// While a Registry has an engine, nothing else writes to what the engine
// stores. An engine that replicates must therefore have one writer at a time;
// a write that another node made in between is noticed (the revision differs)
// and read before the rules are applied.
type Engine interface {
	// View runs f over one consistent state.
	View(f func(Tx) error) error
	// Update runs f once and commits what it put, all or nothing, durably. If f
	// returns an error, nothing is changed and Update returns that error. Any
	// other error means that the commit failed; it may have happened all the
	// same.
	Update(f func(Tx) error) error
	// Backup writes one consistent state to w, in a form that opens again.
	Backup(w io.Writer) error
	// Close ends the engine. It waits for transactions that are under way.
	Close() error
}

// Tx is a transaction, valid until the function that was given it returns. It
// cannot delete: the registry forgets nothing.
type Tx interface {
	// Get returns a value, valid until the transaction ends, or nil.
	Get(bucket, key string) []byte
	// Put stores a value, which must not change until the transaction ends.
	Put(bucket, key string, value []byte) error
	// Each calls f for every value of a bucket in the order of keys, until f
	// returns an error. The value is valid until the transaction ends.
	Each(bucket string, f func(key string, value []byte) error) error
}
