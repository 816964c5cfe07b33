package registry

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxName bounds what names a record.
const maxName = 255

// PutKey creates a key, or gives one another policy, backend, algorithm, size
// or due time. Its versions stay what they are. The partner of a key cannot
// change, nor when it was created.
func (r *Registry) PutKey(k Key) error {
	err := errors.Join(checkName("name", k.Name), checkName("partner", k.Partner), checkName("backend", k.Backend))
	if err == nil {
		_, err = r.update(func(d *draft) error {
			old, ok := d.keys[k.Name]
			switch {
			case ok && old.Partner != k.Partner:
				return fmt.Errorf("%w: its partner is %s", ErrImmutable, old.Partner)
			case ok:
				k.CreatedAt = old.CreatedAt
			case k.CreatedAt.IsZero():
				k.CreatedAt = time.Now()
			}
			k.CreatedAt, k.NextDue = k.CreatedAt.UTC(), k.NextDue.UTC()
			return d.putKey(k)
		})
	}
	if err != nil {
		return fmt.Errorf("storing the key %q: %w", k.Name, err)
	}
	return nil
}

// SetDue sets when the schedule next asks for a rotation of a key.
func (r *Registry) SetDue(key string, at time.Time) error {
	_, err := r.update(func(d *draft) error { return d.setDue(key, at) })
	if err != nil {
		return fmt.Errorf("setting when %q is due: %w", key, err)
	}
	return nil
}

func (d *draft) setDue(key string, at time.Time) error {
	k, ok := d.keys[key]
	if !ok {
		return ErrNotFound
	}
	due := *k
	due.NextDue = at.UTC()
	return d.putKey(due)
}

// Begin records the intent to make a version, before there is any material: it
// is pending, has the next number of its key, and nothing else of the key is in
// flight. In the same transaction the key becomes due at nextDue, so that a
// crash repeats neither.
func (r *Registry) Begin(v Version, by, reason string, audit uint64, nextDue time.Time) (Version, error) {
	begun, err := r.enter(v, Pending, by, reason, audit, func(d *draft) error {
		if v.Handle != "" || len(v.Public) != 0 || v.Adopted {
			return fmt.Errorf("%w: it comes with material", ErrInvalid)
		}
		return d.setDue(v.Key, nextDue)
	})
	if err != nil {
		return Version{}, fmt.Errorf("beginning the version %q of %q: %w", v.KID, v.Key, err)
	}
	return begun, nil
}

// Adopt records a version whose material was made elsewhere and passed its
// self-test. It is announced: it opens from now on.
func (r *Registry) Adopt(v Version, by, reason string, audit uint64) (Version, error) {
	v.Adopted = true
	adopted, err := r.enter(v, Announced, by, reason, audit, func(d *draft) error {
		if err := ready(&v); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		return d.freeHandle(&v)
	})
	if err != nil {
		return Version{}, fmt.Errorf("adopting the version %q of %q: %w", v.KID, v.Key, err)
	}
	return adopted, nil
}

// enter adds a version in its first state.
func (r *Registry) enter(v Version, first State, by, reason string, audit uint64, also func(*draft) error) (Version, error) {
	entered, err := event(time.Now(), by, reason, audit)
	if err := errors.Join(err, checkName("kid", v.KID), checkName("key", v.Key), checkName("backend", v.Backend)); err != nil {
		return Version{}, err
	}
	if v.State != first && v.State != "" {
		return Version{}, fmt.Errorf("%w: its first state is %s, not %s", ErrTransition, first, v.State)
	}
	entered.To = first
	v.State, v.History, v.Retry, v.DrainUntil = first, []Event{entered}, Retry{}, time.Time{}
	v.ValidFrom, v.ValidTill = v.ValidFrom.UTC().Truncate(time.Second), v.ValidTill.UTC().Truncate(time.Second)
	ix, err := r.update(func(d *draft) error {
		if _, ok := d.keys[v.Key]; !ok {
			return fmt.Errorf("key %q: %w", v.Key, ErrNotFound)
		}
		if old, ok := d.versions[v.KID]; ok {
			return fmt.Errorf("%w: the kid is version %d of %s", ErrExists, old.Number, old.Key)
		}
		series := d.series[v.Key]
		if s := survey(series); len(s.inFlight) > 0 {
			return fmt.Errorf("%w: version %s is %s", ErrInFlight, s.inFlight[0].KID, s.inFlight[0].State)
		}
		v.Number = 1
		if n := len(series); n > 0 {
			v.Number = series[n-1].Number + 1
		}
		if err := also(d); err != nil {
			return err
		}
		return d.putVersion(v)
	})
	if err != nil {
		return Version{}, err
	}
	return ix.versions[v.KID].clone(), nil
}

// ready reports what a version lacks of what Announced promises: it opens.
func ready(v *Version) error {
	switch {
	case v.Handle == "" || len(v.Public) == 0:
		return errors.New("it has no key pair")
	case v.TestedAt.IsZero():
		return errors.New("its key pair has not passed a self-test")
	}
	return nil
}

// freeHandle refuses a private key that another version has.
func (d *draft) freeHandle(v *Version) error {
	for kid, other := range d.versions {
		if kid != v.KID && other.Backend == v.Backend && other.Handle == v.Handle {
			return fmt.Errorf("%w: version %s has the private key %s", ErrExists, kid, v.Handle)
		}
	}
	return nil
}

// What Amend may change: these at any time, and those once. Whatever is in
// neither list stays as it is, a field added later too.
var (
	amendable     = []string{"GeneratedAt", "TestedAt", "ToldAt", "CanaryAt", "CanaryKID", "DisabledAt", "Retry"}
	amendableOnce = []string{"Handle", "Public", "Evidence", "SelfTest"}
)

// Amend changes a version's marks and retries, and gives it its handle, public
// key, evidence and self-test, once. f gets a copy, which is stored if f returns nil; it
// runs inside the transaction and must not call the registry.
func (r *Registry) Amend(kid string, f func(*Version) error) (Version, error) {
	ix, err := r.update(func(d *draft) error {
		old, ok := d.versions[kid]
		if !ok {
			return ErrNotFound
		}
		v := old.clone()
		if err := f(&v); err != nil {
			return err
		}
		if err := onlyAmended(old, &v); err != nil {
			return err
		}
		if v.Handle != old.Handle {
			if err := d.freeHandle(&v); err != nil {
				return err
			}
		}
		return d.putVersion(v)
	})
	if err != nil {
		return Version{}, fmt.Errorf("amending the version %q: %w", kid, err)
	}
	return ix.versions[kid].clone(), nil
}

// onlyAmended compares field by field.
func onlyAmended(before, after *Version) error {
	was, is := reflect.ValueOf(before).Elem(), reflect.ValueOf(after).Elem()
	var errs []error
	for i := range was.NumField() {
		name := was.Type().Field(i).Name
		switch {
		case reflect.DeepEqual(was.Field(i).Interface(), is.Field(i).Interface()):
		case slices.Contains(amendable, name):
		case slices.Contains(amendableOnce, name) && was.Field(i).IsZero():
		default:
			errs = append(errs, fmt.Errorf("%w: %s", ErrImmutable, name))
		}
	}
	return errors.Join(errs...)
}

// checkName refuses what would not stand in a record, a log line or an address
// as it was given.
func checkName(what, s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%w: no %s", ErrInvalid, what)
	case len(s) > maxName, !utf8.ValidString(s), strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }):
		return fmt.Errorf("%w: %s %q: want at most %d bytes of printable characters", ErrInvalid, what, s, maxName)
	}
	return nil
}
