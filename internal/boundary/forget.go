package boundary

import (
	"hash"
	"reflect"
	"runtime"
	"unsafe"
)

// forget wipes what a cipher or a digest of the standard library keeps of a
// key: the round keys of AES begin with the key itself, and a digest holds its
// last block. There is no other way in, and the garbage collector frees memory
// without clearing it. It reports whether v is what it can wipe: a pointer to a
// struct without pointers in it, as all of them are (the test says so).
//
// runtime/secret would do the same at the next garbage collection; it is an
// experiment still, for which every build would have to be asked.
func forget(v any) bool {
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() || pointers(p.Type().Elem()) {
		return false
	}
	clear(unsafe.Slice((*byte)(p.UnsafePointer()), p.Type().Elem().Size())) // #nosec G103 -- its own bytes, and none of them a pointer
	runtime.KeepAlive(v)
	return true
}

// pointers reports whether a value of the type holds any.
func pointers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return false
	case reflect.Array:
		return pointers(t.Elem())
	case reflect.Struct:
		for field := range t.Fields() {
			if pointers(field.Type) {
				return true
			}
		}
		return false
	}
	return true
}

// deep is how much of a goroutine's stack the calls below take, and more.
const deep = 8 << 10

// growStack makes room on the stack before there are secrets on it: when it
// grows it is copied, and the old one is not cleared.
func growStack() { SweepStack() }

// SweepStack clears what calls have left on the stack below its caller, and in
// the vector registers, which a signal can write to memory at any time later.
//
//go:noinline
func SweepStack() {
	var below [deep]byte
	sweep(&below)
	rinse(below[:rinsing])
}

//go:noinline
func sweep(b *[deep]byte) { clear(b[:]) }

// rinsing is a length for which a copy goes through all of the sixteen vector
// registers (runtime, memmove_amd64.s), and leaves zeros in them.
const rinsing = 256

var zeros [rinsing]byte

//go:noinline
func rinse(b []byte) { copy(b, zeros[:]) }

// hmacSum is HMAC (RFC 2104 §2) of parts one after the other. crypto/hmac keeps
// the key where it cannot be wiped.
func hmacSum(newHash func() hash.Hash, key []byte, parts ...[]byte) []byte {
	inner, outer := newHash(), newHash()
	defer forget(inner)
	defer forget(outer)
	pad := make([]byte, inner.BlockSize())
	defer clear(pad)
	if copy(pad, key) < len(key) {
		panic("boundary: a MAC key that is longer than a block") // RFC 7518 §5.2.2.1 has none
	}
	for i := range pad {
		pad[i] ^= 0x36
	}
	inner.Write(pad)
	for _, part := range parts {
		inner.Write(part)
	}
	for i := range pad {
		pad[i] ^= 0x36 ^ 0x5c
	}
	outer.Write(pad)
	outer.Write(inner.Sum(nil))
	return outer.Sum(nil)
}
