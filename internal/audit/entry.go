package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// The phases of an entry.
const (
	PhaseIntent  = "intent"  // an operation is about to act; an outcome with the same Op follows
	PhaseOutcome = "outcome" // what came of it
	PhaseEvent   = "event"   // happened, in one piece
)

// The results of an outcome or event.
const (
	ResultOK      = "ok"
	ResultFailed  = "failed"
	ResultRefused = "refused" // the caller may not, or the rules forbid it
)

// Limits of an entry. Texts may come from a peer: they are cut, so that nobody
// can make an operation fail, or hide, by the length of what they send.
const (
	maxLine   = 8 << 10 // a whole line with its newline
	maxText   = 256     // every text but a detail's value
	maxValue  = 1 << 10 // a detail's value
	maxDetail = 32      // number of details
)

// Actor is who caused an entry.
type Actor struct {
	UID  int    `json:"uid"` // -1: not a local user (the daemon itself, a caller known by certificate)
	GID  int    `json:"gid"`
	PID  int    `json:"pid,omitempty"`
	User string `json:"user"`
	Role string `json:"role"`
}

// System is the daemon itself: a schedule, a retry, the start.
var System = Actor{UID: -1, GID: -1, User: "keyd", Role: "system"}

// String is the actor for people: "root(0) operator".
func (a Actor) String() string {
	name := a.User
	if a.UID >= 0 {
		name += "(" + strconv.Itoa(a.UID) + ")"
	}
	return strings.TrimSpace(name + " " + a.Role)
}

// Entry is one entry of the log. Texts longer than 256 bytes, and values of
// Detail longer than 1 KiB, are cut and end in the number of bytes left out.
type Entry struct {
	Seq     uint64            `json:"seq"`           // set by the log
	At      time.Time         `json:"at"`            // set by the log: when it was written
	Op      string            `json:"op,omitempty"`  // operation: the same in intent and outcome
	Phase   string            `json:"phase"`         // intent, outcome or event
	Action  string            `json:"action"`        // "key.rotate", "decrypt"
	Actor   Actor             `json:"actor"`         // who
	Key     string            `json:"key,omitempty"` // with which key
	KID     string            `json:"kid,omitempty"` // which version of it
	Partner string            `json:"partner,omitempty"`
	Result  string            `json:"result,omitempty"` // ok, failed or refused; none in an intent
	Code    string            `json:"code,omitempty"`   // why, for programs
	Detail  map[string]string `json:"detail,omitempty"` // whatever else; never a secret

	// Raw is the line as it stands in the log, without its newline. Read and
	// Tail set it; Append and Record ignore it.
	Raw json.RawMessage `json:"-"`
}

// Head names an entry, and with it every entry before it.
type Head struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// genesis is the head of an empty log.
func genesis() Head { return Head{Hash: strings.Repeat("0", 2*sha256.Size)} }

// atLayout has a fixed width and sorts as text.
const atLayout = "2006-01-02T15:04:05.000000Z"

// blank is how an entry begins that the log has not numbered yet.
const blank = `{"seq":0,"at":"0001-01-01T00:00:00Z",`

// encode makes what an entry contributes to its line: every member after "at",
// without the braces. This is most of the work, and the caller's goroutine does
// it.
func encode(e Entry) ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e.trimmed()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEntry, err)
	}
	body := bytes.TrimSuffix(bytes.TrimPrefix(buf.Bytes(), []byte(blank)), []byte("}\n"))
	body = escapeInvisible(body)
	if n := maxPrefix + len(body) + suffixLen + 1; n > maxLine {
		return nil, fmt.Errorf("%w: %s takes %d bytes of %d", ErrTooLarge, e.Action, n, maxLine)
	}
	return body, nil
}

// check refuses what a reader of the log could not understand.
func (e Entry) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrEntry}, args...)...)
	}
	switch e.Result {
	case "", ResultOK, ResultFailed, ResultRefused:
	default:
		return bad("result %q", e.Result)
	}
	switch {
	case e.Action == "":
		return bad("no action")
	case e.Phase != PhaseIntent && e.Phase != PhaseOutcome && e.Phase != PhaseEvent:
		return bad("%s: phase %q", e.Action, e.Phase)
	case e.Phase != PhaseEvent && e.Op == "":
		return bad("%s: an %s without an operation", e.Action, e.Phase)
	case e.Phase == PhaseIntent && e.Result != "":
		return bad("%s: an intent with a result", e.Action)
	case e.Phase == PhaseOutcome && e.Result == "":
		return bad("%s: an outcome without a result", e.Action)
	case len(e.Detail) > maxDetail:
		return fmt.Errorf("%w: %s has %d details of %d", ErrTooLarge, e.Action, len(e.Detail), maxDetail)
	}
	return nil
}

// trimmed is the entry with every text within its limit, and without what the
// log sets itself. The caller's map is not touched.
func (e Entry) trimmed() Entry {
	e.Seq, e.At = 0, time.Time{}
	for _, s := range []*string{&e.Op, &e.Action, &e.Actor.User, &e.Actor.Role, &e.Key, &e.KID, &e.Partner, &e.Code} {
		*s = cut(*s, maxText)
	}
	if len(e.Detail) > 0 {
		detail := make(map[string]string, len(e.Detail))
		for k, v := range e.Detail {
			detail[cut(k, maxText)] = cut(v, maxValue)
		}
		e.Detail = detail
	}
	return e
}

// cut shortens s to at most about limit bytes and says how much is missing.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	end := limit
	for end > limit-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return fmt.Sprintf("%s…[+%d bytes]", s[:end], len(s)-end)
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

const (
	prevMember = `,"prev":"`
	hashMember = `","hash":"`
	lineEnd    = `"}`
	hexLen     = 2 * sha256.Size
	suffixLen  = len(prevMember) + hexLen + len(hashMember) + hexLen + len(lineEnd)
	maxPrefix  = len(`{"seq":18446744073709551615,"at":"`+atLayout) + len(`",`)
)

// appendLine appends the line that follows prev, with its newline, and returns
// the head it makes.
func appendLine(buf []byte, prev Head, at time.Time, body []byte) ([]byte, Head) {
	start := len(buf)
	head := Head{Seq: prev.Seq + 1}
	buf = append(buf, `{"seq":`...)
	buf = strconv.AppendUint(buf, head.Seq, 10)
	buf = append(buf, `,"at":"`...)
	buf = at.UTC().AppendFormat(buf, atLayout)
	buf = append(buf, `",`...)
	buf = append(buf, body...)
	buf = append(buf, prevMember...)
	buf = append(buf, prev.Hash...)
	buf = append(buf, lineEnd...)
	sum := sha256.Sum256(buf[start:])
	head.Hash = hex.EncodeToString(sum[:])
	buf = append(buf[:len(buf)-len(lineEnd)], hashMember...)
	buf = append(buf, head.Hash...)
	buf = append(buf, lineEnd...)
	return append(buf, '\n'), head
}
