package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"
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

// Entry is one entry of the log. Texts that take more than 256 bytes in their
// line (names of details 64, values 1 KiB) are cut and end in the number of bytes
// left out. Values are cut further, the longest first, until the line fits in
// 8 KiB; of more than 32 details the rest are counted in one named "…". So every
// well-formed entry is one that the log takes.
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
	e.Seq, e.At = 0, time.Time{} // the log sets them
	body, err := e.trimmed(maxValue).members()
	if err != nil || len(body) <= maxBody {
		return body, err
	}
	// The longest values give way, as little as will do.
	limit := maxValue - sort.Search(maxValue-minValue, func(less int) bool {
		body, err := e.trimmed(maxValue - less).members()
		return err == nil && len(body) <= maxBody
	})
	return e.trimmed(limit).members()
}

func (e Entry) members() ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEntry, err)
	}
	body := bytes.TrimSuffix(bytes.TrimPrefix(buf.Bytes(), []byte(blank)), []byte("}\n"))
	return escapeInvisible(body), nil
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
	}
	return nil
}

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
