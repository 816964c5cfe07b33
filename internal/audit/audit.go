// Package audit is the log of who asked keyd for what and what came of it:
// append-only, hash-chained, failing closed.
//
// # The file
//
// A log is a file of JSON objects, one a line:
//
//	{"seq":2,"at":"…","op":"…","phase":"intent","action":"key.rotate",…,"prev":"<64 hex>","hash":"<64 hex>"}
//
// seq counts from 1. prev is the hash of the line before, 64 zeros in the first
// line. hash, always the last member, is the SHA-256 over the exact bytes of
// the line with that member cut out. Nothing has to be canonicalised, so a
// shell can check a log:
//
//	n=0 prev=$(printf %064d 0); while IFS= read -r line; do n=$((n+1)); body="${line%,\"hash\":*}}"
//	  hash=$(printf %s "$body" | sha256sum | cut -c1-64)
//	  test "$line" = "${body%?},\"hash\":\"$hash\"}" -a "${body%,\"prev\":*},\"prev\":\"$prev\"}" = "$body" ||
//	    { echo "broken at line $n"; exit 1; }
//	  prev=$hash; done <audit.jsonl; echo "head $n:$prev"
//
// # What the chain shows, and what it cannot
//
// An edit, a deletion, an insertion, a copy or a reordering breaks the chain
// where it happened. A log cut off at the end is still a chain: that shows only
// against a head (sequence number and hash of an entry) remembered elsewhere.
// The log remembers one itself, in a file beside it, and refuses to open when
// it no longer leads there. Whoever can write both files can make both anew,
// which only a head kept out of their reach will show: `keyd status` prints one
// to keep, and every change in the registry names the entry it belongs to.
//
// The remembered head is written at most once a second, always after the fsync
// of the entries it covers. A crash between the two leaves a head that lags, by
// about a second of entries, and never one that leads: a longer log is whole as
// long as the head is one of its entries. A head that cannot be written (no file
// descriptor left, its disk full) lags further: that is logged, tried again every
// second and at Close, and told by HeadErr. It stops nothing.
//
// # Crashes and failures
//
// A crash in the middle of a write leaves a last line without its newline. No
// fsync covered it, so it was acknowledged to nobody or, after a power cut, by
// Record less than about a second before: Open cuts it off and says so in the
// log (audit.recovered). A complete line that does not verify makes Open refuse,
// as does a log that ends before the remembered head.
//
// After a failed write or fsync the log refuses every entry until it is opened
// again, and so everything that must be audited is refused: what is on the disk
// is then unknown, and trying the fsync again would not tell (the kernel may
// have dropped the pages it could not write, and show them until it restarts).
// See to the disk before starting again. The same happens at the next entry when
// the file was renamed, removed, truncated or written to by anyone else.
//
// # Growth
//
// An entry takes 300 to 600 bytes. A million decrypts make about half a
// gigabyte, which Open verifies in about a second. There is no rotation by size:
// a new file would be a new chain. logrotate, copytruncate above all, breaks
// the log, which then fails closed. To keep a copy, copy the file: any prefix
// that ends in a newline is a whole log.
package audit

import (
	"errors"
	"fmt"
)

var (
	// ErrFailed is returned for every entry after a write or fsync failed, or
	// the file was changed by someone else, until the log is opened again. The
	// entry that met the failure may or may not be in the log.
	ErrFailed = errors.New("the audit log has failed")
	// ErrBroken is matched by every BrokenError: the log is not a whole chain.
	ErrBroken = errors.New("the audit log is broken")
	// ErrLocked is returned by Open when another process has the log open.
	ErrLocked = errors.New("the audit log is in use by another process")
	// ErrClosed is returned for an entry after Close.
	ErrClosed = errors.New("the audit log is closed")
	// ErrEntry is returned for an entry that is not well formed: an unknown
	// phase or result, no action, an intent or outcome without an operation.
	ErrEntry = errors.New("malformed audit entry")
)

// BrokenError says where a log stops being a whole chain.
type BrokenError struct {
	Line   int    // the first line that is wrong, from 1; the last line if the log was cut off; 0 if no line is to blame
	Seq    uint64 // the entry that should stand there
	Reason string
}

// Error names the line and the reason.
func (e *BrokenError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%v: %s", ErrBroken, e.Reason)
	}
	return fmt.Sprintf("%v at line %d (entry %d): %s", ErrBroken, e.Line, e.Seq, e.Reason)
}

// Is makes a BrokenError match ErrBroken.
func (e *BrokenError) Is(target error) bool { return target == ErrBroken }
