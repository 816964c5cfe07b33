package registry

import (
	"fmt"
	"strconv"
)

// SchemaVersion is the form of the records that this keyd reads and writes. It
// goes up with every change that an older keyd would misread or lose.
const SchemaVersion = 1

// The buckets.
const (
	metaBucket        = "meta"         // schemaKey, revisionKey
	keyBucket         = "keys"         // Key by name
	versionBucket     = "versions"     // Version by kid
	partnerKeysBucket = "partner_keys" // PartnerKey by partner and fingerprint
)

const (
	schemaKey   = "schema"
	revisionKey = "revision" // goes up by one with every commit
)

// migrations takes a registry from each schema to the next. Schema 0 is an
// empty store.
var migrations = map[int]func(Tx) error{0: create}

// create makes the first registry of an empty store.
func create(tx Tx) error {
	for _, bucket := range []string{keyBucket, versionBucket, partnerKeysBucket} {
		err := tx.Each(bucket, func(id string, _ []byte) error {
			return fmt.Errorf("%w: it has records (%s %q) and no schema", ErrCorrupt, bucket, id)
		})
		if err != nil {
			return err
		}
	}
	return putNumber(tx, revisionKey, 0)
}

// prepare brings the store to SchemaVersion, or refuses it.
func prepare(e Engine) error {
	var found uint64
	err := e.View(func(tx Tx) (err error) {
		found, err = number(tx, schemaKey)
		return err
	})
	switch {
	case err != nil:
		return err
	case found > SchemaVersion:
		return &NewerSchemaError{Found: int(found), Known: SchemaVersion}
	case found == SchemaVersion:
		return nil
	}
	return e.Update(func(tx Tx) error { return migrate(tx, int(found), SchemaVersion, migrations) })
}

// migrate takes every step between two schemas in one transaction.
func migrate(tx Tx, from, to int, steps map[int]func(Tx) error) error {
	for schema := from; schema < to; schema++ {
		step, ok := steps[schema]
		if !ok {
			return fmt.Errorf("%w: it has schema %d, which no keyd reads", ErrCorrupt, schema)
		}
		if err := step(tx); err != nil {
			return fmt.Errorf("taking the registry from schema %d to %d: %w", schema, schema+1, err)
		}
	}
	return putNumber(tx, schemaKey, uint64(to))
}

// number reads one of the meta bucket's numbers; 0 if it is not there.
func number(tx Tx, key string) (uint64, error) {
	raw := tx.Get(metaBucket, key)
	if raw == nil {
		return 0, nil
	}
	n, err := strconv.ParseUint(string(raw), 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%w: its %s is %q", ErrCorrupt, key, raw)
	}
	return n, nil
}

func putNumber(tx Tx, key string, n uint64) error {
	return tx.Put(metaBucket, key, strconv.AppendUint(nil, n, 10))
}
