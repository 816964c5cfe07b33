package registry

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// index is all that the registry holds, decoded. Nothing in it changes once a
// reader can see it: a write makes the next index, which shares with this one
// what stayed the same.
type index struct {
	revision    uint64
	keys        map[string]*Key
	versions    map[string]*Version      // by kid
	series      map[string][]*Version    // by key, in the order of Number
	partnerKeys map[string][]*PartnerKey // by partner, in the order of LastSeen
}

// load reads an index.
func load(tx Tx) (*index, error) {
	ix := &index{keys: map[string]*Key{}, versions: map[string]*Version{},
		series: map[string][]*Version{}, partnerKeys: map[string][]*PartnerKey{}}
	var err error
	if ix.revision, err = number(tx, revisionKey); err != nil {
		return nil, err
	}
	err = each(tx, keyBucket, func(k *Key) string {
		ix.keys[k.Name] = k
		return k.Name
	})
	if err != nil {
		return nil, err
	}
	err = each(tx, versionBucket, func(v *Version) string {
		ix.versions[v.KID] = v
		ix.series[v.Key] = append(ix.series[v.Key], v)
		return v.KID
	})
	if err != nil {
		return nil, err
	}
	err = each(tx, partnerKeysBucket, func(pk *PartnerKey) string {
		ix.partnerKeys[pk.Partner] = append(ix.partnerKeys[pk.Partner], pk)
		return pk.id()
	})
	if err != nil {
		return nil, err
	}
	for _, versions := range ix.series {
		slices.SortStableFunc(versions, byNumber)
	}
	for _, keys := range ix.partnerKeys {
		slices.SortStableFunc(keys, byLastSeen)
	}
	return ix, nil
}

// each decodes the records of a bucket. add returns the name that a record must
// stand under.
func each[T any](tx Tx, bucket string, add func(*T) (id string)) error {
	return tx.Each(bucket, func(id string, raw []byte) error {
		v := new(T)
		if err := json.Unmarshal(raw, v); err != nil {
			return fmt.Errorf("%w: %s %q: %w", ErrCorrupt, bucket, id, err)
		}
		if named := add(v); named != id {
			return fmt.Errorf("%w: %s %q calls itself %q", ErrCorrupt, bucket, id, named)
		}
		return nil
	})
}

func byNumber(a, b *Version) int      { return cmp.Compare(a.Number, b.Number) }
func byLastSeen(a, b *PartnerKey) int { return a.LastSeen.Compare(b.LastSeen) }

// id is the name of a partner key's record.
func (pk *PartnerKey) id() string { return pk.Partner + "\x00" + pk.Fingerprint }

func (pk *PartnerKey) clone() PartnerKey {
	c := *pk
	c.Public = bytes.Clone(pk.Public)
	return c
}

func (v *Version) clone() Version {
	c := *v
	c.Public, c.Evidence, c.SelfTest, c.History = bytes.Clone(v.Public), bytes.Clone(v.Evidence), bytes.Clone(v.SelfTest), slices.Clone(v.History)
	return c
}

func (v *Version) glance() Version {
	c := *v
	c.Public, c.Evidence, c.SelfTest, c.History = nil, nil, nil, nil
	return c
}

// draft is an index in the making, with the records that differ.
type draft struct {
	index
	puts []record
}

type record struct {
	bucket, id string
	raw        []byte
}

// draft begins the next index.
func (ix *index) draft() *draft {
	return &draft{index: index{revision: ix.revision + 1, keys: maps.Clone(ix.keys), versions: maps.Clone(ix.versions),
		series: maps.Clone(ix.series), partnerKeys: maps.Clone(ix.partnerKeys)}}
}

// put stages a record. What the index gets is decoded from what is stored, so
// that it shares nothing with v and a reload finds the very same.
func put[T any](d *draft, bucket, id string, v T) (*T, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	stored := new(T)
	if err := json.Unmarshal(raw, stored); err != nil {
		return nil, fmt.Errorf("%w: it does not read back: %w", ErrInvalid, err)
	}
	d.puts = append(d.puts, record{bucket, id, raw})
	return stored, nil
}

func (d *draft) putKey(k Key) error {
	stored, err := put(d, keyBucket, k.Name, k)
	if err == nil {
		d.keys[k.Name] = stored
	}
	return err
}

func (d *draft) putVersion(v Version) error {
	stored, err := put(d, versionBucket, v.KID, v)
	if err != nil {
		return err
	}
	old := d.versions[v.KID]
	d.versions[v.KID] = stored
	series := slices.Clone(d.series[v.Key])
	if i := slices.Index(series, old); i >= 0 {
		series[i] = stored
	} else {
		series = append(series, stored)
	}
	d.series[v.Key] = series
	return nil
}

func (d *draft) putPartnerKey(pk PartnerKey) error {
	stored, err := put(d, partnerKeysBucket, pk.id(), pk)
	if err != nil {
		return err
	}
	keys := slices.DeleteFunc(slices.Clone(d.partnerKeys[pk.Partner]), func(k *PartnerKey) bool { return k.Fingerprint == pk.Fingerprint })
	keys = append(keys, stored)
	slices.SortStableFunc(keys, byLastSeen)
	d.partnerKeys[pk.Partner] = keys
	return nil
}

// write puts the records that differ, and the revision.
func (d *draft) write(tx Tx) error {
	for _, r := range d.puts {
		if err := tx.Put(r.bucket, r.id, r.raw); err != nil {
			return fmt.Errorf("storing %s %q: %w", r.bucket, r.id, err)
		}
	}
	return putNumber(tx, revisionKey, d.revision)
}
