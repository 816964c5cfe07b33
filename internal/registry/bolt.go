package registry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

const (
	fileMode    = 0o600
	lockTimeout = time.Second
	// mapSize is the address space set aside for the file. Up to this size a
	// commit never has to wait for a backup that is being read slowly.
	mapSize = 256 << 20
	// growBy is how much the file grows at a time.
	growBy = 1 << 20
)

// Options say how a registry's file is opened.
type Options struct {
	// Timeout is how long to wait for a lock that another process holds; 0 is a
	// second.
	Timeout time.Duration
	// Check has bbolt look at the order of keys and at the free pages too, so
	// that damage there shows now and not in the middle of a write.
	Check bool
}

// OpenBolt opens a bbolt file as an engine, or makes one. One process at a time
// has it.
func OpenBolt(path string, opts Options) (Engine, error) {
	e := &boltEngine{}
	if err := e.open(path, opts); err != nil {
		return nil, fmt.Errorf("opening the registry %s: %w", path, errors.Join(err, e.abandon()))
	}
	return e, nil
}

// boltEngine keeps records in a bbolt file, which is fsynced by every commit.
type boltEngine struct {
	db   *bolt.DB
	file *os.File // that db opened, and closes
}

func (e *boltEngine) open(path string, opts Options) error {
	timeout := opts.Timeout
	if timeout == 0 {
		timeout = lockTimeout
	}
	empty := false
	openFile := func(path string, flag int, mode os.FileMode) (f *os.File, err error) {
		e.file, empty, err = openPrivate(path, flag, mode)
		return e.file, err
	}
	return guard(func() (err error) {
		e.db, err = bolt.Open(path, fileMode, &bolt.Options{Timeout: timeout, InitialMmapSize: mapSize, NoStatistics: true, OpenFile: openFile})
		if err != nil {
			return err
		}
		e.db.AllocSize = growBy
		if empty {
			// bbolt syncs the file; that it has a name is the folder's to keep.
			if err := syncDir(filepath.Dir(path)); err != nil {
				return err
			}
		}
		return e.db.View(func(tx *bolt.Tx) error { return e.verify(tx, opts.Check) })
	})
}

// openPrivate opens a file that nobody else may read or write; one restored
// from a backup may have come with another mode.
func openPrivate(path string, flag int, mode os.FileMode) (f *os.File, empty bool, err error) {
	f, err = os.OpenFile(path, flag, mode)
	if err != nil {
		return nil, false, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s is not a file", path)
	case info.Mode().Perm() != fileMode:
		err = f.Chmod(fileMode)
	}
	if err != nil {
		return nil, false, errors.Join(err, f.Close())
	}
	return f, info.Size() == 0, nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// verify refuses a file that is cut short, that is something else than a
// registry, or of which bbolt could not be trusted to read a page.
func (e *boltEngine) verify(tx *bolt.Tx, all bool) error {
	info, err := e.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() < tx.Size() {
		return fmt.Errorf("%w: it has %d bytes and should have %d", ErrCorrupt, info.Size(), tx.Size())
	}
	if err := leadsSomewhere(e.file, tx); err != nil {
		return err
	}
	if first, _ := tx.Cursor().First(); first != nil && tx.Bucket([]byte(metaBucket)) == nil {
		return fmt.Errorf("%w: it is a bbolt file, and not a registry", ErrCorrupt)
	}
	if !all {
		return nil
	}
	return sound(tx)
}

// abandon lets go of what a failed open left.
func (e *boltEngine) abandon() error {
	if e.db != nil {
		return guard(e.db.Close)
	}
	if e.file == nil {
		return nil
	}
	// bbolt lets go of it, but not when it panics: then the file is mapped for
	// as long as the process lives, and closing it would not end the lock.
	_ = syscall.Flock(int(e.file.Fd()), syscall.LOCK_UN)
	if err := e.file.Close(); !errors.Is(err, fs.ErrClosed) {
		return err
	}
	return nil
}

// guard turns what bbolt does about a damaged file, panics and reads of pages
// that are not there, into ErrCorrupt, and names its other errors.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrCorrupt, r)
		}
	}()
	err = f()
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("%w", ErrLocked)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}

func (e *boltEngine) View(f func(Tx) error) error {
	return guard(func() error { return e.db.View(func(tx *bolt.Tx) error { return f(boltTx{tx}) }) })
}

func (e *boltEngine) Update(f func(Tx) error) error {
	return e.db.Update(func(tx *bolt.Tx) error { return f(boltTx{tx}) })
}

func (e *boltEngine) Backup(w io.Writer) error {
	return e.db.View(func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(w)
		return err
	})
}

func (e *boltEngine) Close() error { return e.db.Close() }

type boltTx struct{ tx *bolt.Tx }

func (t boltTx) Get(bucket, key string) []byte {
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.Get([]byte(key))
}

func (t boltTx) Put(bucket, key string, value []byte) error {
	b, err := t.tx.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		return err
	}
	return b.Put([]byte(key), value)
}

func (t boltTx) Each(bucket string, f func(key string, value []byte) error) error {
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.ForEach(func(k, v []byte) error { return f(string(k), v) })
}
