package audit

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Limits of an entry. Texts may come from a peer: they are cut, so that nobody
// can make an operation fail, or hide, by what they send. A text counts as long
// as it stands in the log: a control character takes six bytes there.
const (
	maxLine   = 8 << 10 // a whole line with its newline
	maxText   = 256     // every text but a detail
	maxName   = 64      // a detail's name
	maxValue  = 1 << 10 // a detail's value; less where the line would be too long
	minValue  = 64      // but never less than this
	maxDetail = 32      // number of details, without the one that says how many are left out

	maxBody = maxLine - maxPrefix - suffixLen - len("\n")
)

// An entry with every text at its limit, and the values of its details at the
// least they can be cut to, fits. This does not compile otherwise.
const _ = uint(maxBody -
	len(`"op":"","phase":"outcome","action":"","actor":{"uid":-9223372036854775808,"gid":-9223372036854775808,`+
		`"pid":-9223372036854775808,"user":"","role":""},"key":"","kid":"","partner":"","result":"refused","code":"",`+
		`"detail":{}`) - 8*maxText - (maxDetail+1)*(len(`"":"",`)+maxName+minValue))

// trimmed is the entry with every text within its limit, and the values of its
// details within one that the caller chooses. The caller's map is not touched.
func (e Entry) trimmed(limit int) Entry {
	for _, s := range []*string{&e.Op, &e.Action, &e.Actor.User, &e.Actor.Role, &e.Key, &e.KID, &e.Partner, &e.Code} {
		*s = cut(*s, maxText)
	}
	if len(e.Detail) > 0 {
		e.Detail = trimDetail(e.Detail, limit)
	}
	return e
}

// trimDetail cuts names and values. Details beyond maxDetail, in the order of
// their names, and those whose names are no longer their own are only counted.
func trimDetail(detail map[string]string, limit int) map[string]string {
	trimmed := make(map[string]string, len(detail))
	for _, k := range slices.Sorted(maps.Keys(detail)) {
		name := cut(k, maxName)
		if _, taken := trimmed[name]; !taken && len(trimmed) < maxDetail {
			trimmed[name] = cut(detail[k], limit)
		}
	}
	if left := len(detail) - len(trimmed); left > 0 {
		trimmed["…"] = fmt.Sprintf("[+%d details]", left)
	}
	return trimmed
}

// maxNote is the longest note that a cut text ends in.
const maxNote = len("…[+9223372036854775807 bytes]")

// cut shortens s to what takes at most limit bytes in a line, and says how much
// is missing. Each byte that is not UTF-8 becomes U+FFFD. What was cut once
// stays as it is, so an operation is the same in an outcome that is written
// with the intent's entry as it was read back.
func cut(s string, limit int) string {
	width, end := 0, 0
	for i, r := range s {
		if width <= limit-maxNote {
			end = i
		}
		if width += lineWidth(r); width > limit {
			return valid(s[:end]) + fmt.Sprintf("…[+%d bytes]", len(s)-end)
		}
	}
	return valid(s)
}

func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

// lineWidth is the number of bytes that a character takes in a line, after
// encoding/json and escapeInvisible.
func lineWidth(r rune) int {
	switch {
	case r == '"', r == '\\', r == '\b', r == '\f', r == '\n', r == '\r', r == '\t':
		return len(`\n`)
	case r < ' ', r == '\u2028', r == '\u2029':
		return len(`\u0000`)
	case !invisible(r):
		return utf8.RuneLen(r)
	case r > 0xffff:
		return len(`\u0000\u0000`)
	default:
		return len(`\u0000`)
	}
}

// escapeInvisible writes the control and format characters that JSON lets
// stand (DEL, C1, bidirectional overrides, …) as \u escapes, so that a log shown
// on a terminal cannot say something other than it does. JSON has already
// escaped those below 0x20; in valid JSON the rest occur inside strings only.
func escapeInvisible(b []byte) []byte {
	at := bytes.IndexFunc(b, invisible)
	if at < 0 {
		return b
	}
	out := append([]byte(nil), b[:at]...)
	for _, r := range string(b[at:]) {
		switch {
		case !invisible(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

func invisible(r rune) bool { return r >= 0x7f && unicode.In(r, unicode.Cc, unicode.Cf) }
