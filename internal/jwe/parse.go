package jwe

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"keyd/internal/boundary"
)

// parts are the five of a compact serialization, in order (RFC 7516 §7.1).
var parts = [5]string{"header", "encrypted key", "initialization vector", "ciphertext", "authentication tag"}

// moduli are the lengths an RSA modulus keyd makes can have, in bytes.
var moduli = []int{256, 384, 512}

// strict is base64url without padding (RFC 7515 §2), of which there is only one
// spelling for the same bytes: loose bits at the end are refused.
var strict = base64.RawURLEncoding.Strict()

// Parse reads an envelope in compact serialization that the policy allows. The
// error is one of [ErrTooLarge], [ErrMalformed] and [ErrAlgorithm].
//
// Nothing is trimmed: an envelope that came out of a file with a line break at
// its end is refused, with a message that says so.
func Parse(compact []byte, p Policy) (*Message, error) {
	split, h, err := begin(compact, p.MaxSize)
	if err != nil {
		return nil, err
	}
	if err := p.permit(h.alg, h.enc); err != nil {
		return nil, err
	}
	m := &Message{KID: h.kid, Envelope: boundary.Envelope{Alg: h.alg, Enc: h.enc}}
	if boundary.KeyAlgorithm(h.alg) == boundary.ECDHES {
		if err := h.agreement.agree(&m.Envelope); err != nil {
			return nil, err
		}
	}
	return m.finish(len(compact), split)
}

// ParseDirect reads the reply of an exchange: an envelope under the content key
// that was made for its request with [SealKeeping], of the same enc. Nothing
// else is read here, and nothing of the kind by [Parse]: a "dir" that stood
// where an envelope for the hardware is expected would be one that whoever
// knows some content key can forge.
func ParseDirect(compact []byte, enc string, maxSize int) (*Message, error) {
	split, h, err := begin(compact, maxSize)
	switch {
	case err != nil:
		return nil, err
	case h.alg != boundary.Direct:
		return nil, fmt.Errorf("%w: alg %+.32q, the reply of an exchange has %s", ErrAlgorithm, h.alg, boundary.Direct)
	case h.enc != enc:
		return nil, fmt.Errorf("%w: enc %+.32q, the request had %s", ErrAlgorithm, h.enc, enc)
	}
	m := &Message{KID: h.kid, Envelope: boundary.Envelope{Alg: boundary.Direct, Enc: enc}}
	return m.finish(len(compact), split)
}

// begin reads an envelope as far as its header.
func begin(compact []byte, maxSize int) (five [5][]byte, h header, err error) {
	if len(compact) > maxSize {
		return five, h, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLarge, len(compact), maxSize)
	}
	if five, err = split(compact); err != nil {
		return five, h, err
	}
	h, err = readHeader(five[0])
	return five, h, err
}

// finish decodes the parts of an envelope whose header is allowed. size is how
// long all of it is.
func (m *Message) finish(size int, split [5][]byte) (_ *Message, err error) {
	env := &m.Envelope
	// One buffer has room for all parts: the first as it is, the others decoded.
	buf := append(make([]byte, 0, len(split[0])+strict.DecodedLen(size-len(split[0]))), split[0]...)
	env.AAD = slices.Clip(buf)
	for i, to := range []*[]byte{&env.EncryptedKey, &env.IV, &env.Ciphertext, &env.Tag} {
		start := len(buf)
		if buf, err = decode(parts[i+1], buf, split[i+1]); err != nil {
			return nil, err
		}
		*to = slices.Clip(buf[start:]) // what is appended to one must not run into the next
	}
	if err := checkLengths(env); err != nil {
		return nil, err
	}
	return m, nil
}

// split cuts an envelope at its dots.
func split(compact []byte) ([5][]byte, error) {
	var five [5][]byte
	switch {
	case len(compact) == 0:
		return five, fmt.Errorf("%w: nothing there", ErrMalformed)
	case compact[0] == '{':
		return five, fmt.Errorf("%w: this is the JSON serialization, want the compact one (RFC 7516 §7.1)", ErrMalformed)
	}
	// Go's base64 skips line breaks wherever they stand, so they are looked for here.
	body := bytes.TrimRight(compact, "\r\n")
	for _, lineBreak := range []byte("\r\n") {
		if i := bytes.IndexByte(body, lineBreak); i >= 0 {
			return five, fmt.Errorf("%w: a line break at byte %d", ErrMalformed, i)
		}
	}
	if len(body) < len(compact) {
		return five, fmt.Errorf("%w: a line break at the end: send the five parts and nothing else", ErrMalformed)
	}
	switch n := bytes.Count(compact, []byte(".")) + 1; n {
	case len(five):
	case 3:
		return five, fmt.Errorf("%w: three parts make a JWS, a JWE has five", ErrMalformed)
	default:
		return five, fmt.Errorf("%w: cut by dots into %d, want five parts", ErrMalformed, n)
	}
	for i := range five {
		five[i], compact, _ = bytes.Cut(compact, []byte("."))
	}
	return five, nil
}

// decode undoes base64url and appends the result to what is in to.
func decode(name string, to, part []byte) ([]byte, error) {
	decoded, err := strict.AppendDecode(to, part)
	switch {
	case err == nil:
		return decoded, nil
	case bytes.HasSuffix(part, []byte("=")):
		return nil, fmt.Errorf("%w: the %s has base64 padding, which JOSE leaves out", ErrMalformed, name)
	case len(part)%4 == 1:
		return nil, fmt.Errorf("%w: the %s has %d characters, which no base64url has", ErrMalformed, name, len(part))
	}
	return nil, fmt.Errorf("%w: the %s is not canonical base64url: %w", ErrMalformed, name, err)
}

// permit compares what the header asks for with the policy.
func (p Policy) permit(alg, enc string) error {
	want := strings.Join(p.Algs, " or ")
	switch {
	// Among these are those that would turn an envelope for the hardware into
	// something weaker: an oracle (RSA1_5, Bleichenbacher), or one under a key
	// that the sender and not the hardware holds (dir). No policy can allow them.
	case boundary.KeyAlgorithm(alg) == "":
		return fmt.Errorf("%w: alg %+.32q is %w here, want %s", ErrAlgorithm, alg, ErrNever, want)
	case !slices.Contains(p.Algs, alg):
		return fmt.Errorf("%w: alg %+.32q, want %s", ErrAlgorithm, alg, want)
	}
	if _, known := boundary.ContentOf(enc); !known || !slices.Contains(p.Encs, enc) {
		return fmt.Errorf("%w: enc %+.32q, want %s", ErrAlgorithm, enc, strings.Join(p.Encs, " or "))
	}
	return nil
}

// checkLengths holds every part to what alg and enc say of it. All of these are
// in plain sight, so saying which is wrong tells the sender nothing new.
func checkLengths(env *boundary.Envelope) error {
	shape, _ := boundary.ContentOf(env.Enc)
	keys, say := moduli, "256, 384 or 512"
	switch env.Alg {
	case boundary.ECDHES, boundary.Direct: // RFC 7518 §4.5 and §4.6: the empty octet string
		keys, say = []int{0}, "none"
	case boundary.ECDHESA128KW, boundary.ECDHESA256KW: // RFC 3394 §2.2.1
		keys, say = []int{shape.CEK + 8}, strconv.Itoa(shape.CEK+8)
	}
	if n := len(env.EncryptedKey); !slices.Contains(keys, n) {
		return fmt.Errorf("%w: the encrypted key is %d bytes, %s has %s", ErrMalformed, n, env.Alg, say)
	}
	for _, part := range []struct {
		name      string
		got, want int
	}{{parts[2], len(env.IV), shape.IV}, {parts[4], len(env.Tag), shape.Tag}} {
		if part.got != part.want {
			return fmt.Errorf("%w: the %s is %d bytes, %s has %d", ErrMalformed, part.name, part.got, env.Enc, part.want)
		}
	}
	return nil
}
