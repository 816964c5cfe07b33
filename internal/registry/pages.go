package registry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	bolt "go.etcd.io/bbolt"
)

// The parts of bbolt's file format, version 2, that lead from page to page.
const (
	pageHeader = 16 // id uint64, flags uint16, count uint16, overflow uint32
	element    = 16 // branch: pos, ksize uint32, pgid uint64; leaf: flags, pos, ksize, vsize uint32
	bucketRoot = 16 // root uint64, sequence uint64; root 0: a leaf page follows, inline
	firstPage  = 2  // after the two meta pages

	metaRoot     = pageHeader + 16
	metaFreelist = pageHeader + 32
	metaTxID     = pageHeader + 48
	metaSize     = pageHeader + 64

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
	pageID       = 8      // bytes
	manyFree     = 0xFFFF // the number of free pages stands in the first element
)

// walk follows the tree of a file from page to page, each once and none beyond
// the end. bbolt trusts what it finds there: a page that leads back to itself
// would have it go round until the memory is gone, and one that leads nowhere
// would end the process.
type walk struct {
	file *os.File
	size uint64 // of a page
	end  uint64 // pages in use
	seen map[uint64]bool
}

// leadsSomewhere walks the state that a transaction sees.
func leadsSomewhere(file *os.File, tx *bolt.Tx) error {
	size := uint64(tx.DB().Info().PageSize)
	w := &walk{file: file, size: size, end: uint64(tx.Size()) / size, seen: map[uint64]bool{}}
	for id := range uint64(firstPage) {
		meta := make([]byte, metaSize)
		if _, err := file.ReadAt(meta, int64(id*size)); err != nil {
			return fmt.Errorf("reading page %d: %w", id, err)
		}
		if binary.NativeEndian.Uint64(meta[metaTxID:]) == uint64(tx.ID()) {
			if err := w.tree(binary.NativeEndian.Uint64(meta[metaRoot:]), w.bucket); err != nil {
				return err
			}
			return w.free(binary.NativeEndian.Uint64(meta[metaFreelist:]))
		}
	}
	return fmt.Errorf("%w: neither meta page is of transaction %d", ErrCorrupt, tx.ID())
}

// bucket walks one of the root's entries.
func (w *walk) bucket(flags uint32, value []byte) error {
	if flags != 1 || len(value) < bucketRoot {
		return fmt.Errorf("%w: a value stands where buckets do", ErrCorrupt)
	}
	root := binary.NativeEndian.Uint64(value)
	if root != 0 {
		return w.tree(root, w.value)
	}
	inline := value[bucketRoot:]
	if len(inline) < pageHeader || flagsOf(inline) != leafPage {
		return fmt.Errorf("%w: an inline bucket is no leaf", ErrCorrupt)
	}
	return w.page(inline, w.value)
}

func (w *walk) value(flags uint32, _ []byte) error {
	if flags != 0 {
		return fmt.Errorf("%w: a bucket stands where values do", ErrCorrupt)
	}
	return nil
}

// tree walks the page with an id, and what is below it.
func (w *walk) tree(id uint64, leaf func(flags uint32, value []byte) error) error {
	page, err := w.read(id)
	if err != nil {
		return err
	}
	if err := w.page(page, leaf); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// free looks at the list of free pages: none is in use.
func (w *walk) free(id uint64) error {
	page, err := w.read(id)
	if err != nil {
		return err
	}
	ids, count := page[pageHeader:], uint64(countOf(page))
	if count == manyFree {
		ids, count = ids[pageID:], binary.NativeEndian.Uint64(ids)
	}
	if flagsOf(page) != freelistPage || count > uint64(len(ids)/pageID) {
		return fmt.Errorf("%w: page %d is no list of free pages", ErrCorrupt, id)
	}
	for i := range count {
		free := binary.NativeEndian.Uint64(ids[i*pageID:])
		if free < firstPage || free >= w.end || w.seen[free] {
			return fmt.Errorf("%w: page %d of %d is free, again or wrongly", ErrCorrupt, free, w.end)
		}
		w.seen[free] = true
	}
	return nil
}

// read returns a page with all that it goes on over.
func (w *walk) read(id uint64) ([]byte, error) {
	if id < firstPage || id >= w.end || w.seen[id] {
		return nil, fmt.Errorf("%w: page %d of %d is referred to, again or wrongly", ErrCorrupt, id, w.end)
	}
	head := make([]byte, pageHeader)
	if _, err := w.file.ReadAt(head, int64(id*w.size)); err != nil {
		return nil, fmt.Errorf("reading page %d: %w", id, err)
	}
	overflow := uint64(binary.NativeEndian.Uint32(head[12:]))
	if binary.NativeEndian.Uint64(head) != id || overflow >= w.end-id {
		return nil, fmt.Errorf("%w: page %d of %d says that it is another, or goes on beyond the end", ErrCorrupt, id, w.end)
	}
	for i := range overflow + 1 {
		w.seen[id+i] = true
	}
	page := make([]byte, (overflow+1)*w.size)
	if _, err := w.file.ReadAt(page, int64(id*w.size)); err != nil {
		return nil, fmt.Errorf("reading page %d: %w", id, err)
	}
	return page, nil
}

// page walks the elements of a branch or leaf page.
func (w *walk) page(page []byte, leaf func(flags uint32, value []byte) error) error {
	flags, count := flagsOf(page), countOf(page)
	if flags != branchPage && flags != leafPage || flags == branchPage && count == 0 {
		return fmt.Errorf("%w: it is no tree page", ErrCorrupt)
	}
	if len(page) < pageHeader+count*element {
		return fmt.Errorf("%w: %d elements do not fit in it", ErrCorrupt, count)
	}
	for i := range count {
		e := page[pageHeader+i*element:]
		field := func(n int) uint64 { return uint64(binary.NativeEndian.Uint32(e[n:])) }
		keyEnd, valueLen := field(0)+field(4), uint64(0)
		if flags == leafPage {
			keyEnd, valueLen = field(4)+field(8), field(12)
		}
		if keyEnd+valueLen > uint64(len(e)) {
			return fmt.Errorf("%w: element %d lies outside of it", ErrCorrupt, i)
		}
		var err error
		if flags == branchPage {
			err = w.tree(binary.NativeEndian.Uint64(e[8:]), leaf)
		} else {
			err = leaf(uint32(field(0)), e[keyEnd:keyEnd+valueLen])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func flagsOf(page []byte) uint16 { return binary.NativeEndian.Uint16(page[8:]) }

func countOf(page []byte) int { return int(binary.NativeEndian.Uint16(page[10:])) }

// sound has bbolt look at its own pages: the order of keys, and that each page
// is either in use or free.
func sound(tx *bolt.Tx) error {
	var found error
	for problem := range tx.Check() { // to the end, or its goroutine stays
		found = errors.Join(found, problem)
	}
	if found != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, found)
	}
	return nil
}
