package evidence

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"keyd/client"
	"keyd/internal/audit"
)

// lifecycle is what the actions begin with that make a key's life. Everything
// else that names one is a use of it.
const lifecycle = "key."

// collector picks a key's entries out of a log. Most lines of a log are about
// the use of some key and are not decoded.
type collector struct {
	key     string
	kids    map[string]bool
	entries []json.RawMessage
	uses    map[string]map[string]Use
	err     error
}

func newCollector(key client.Key) *collector {
	c := &collector{key: key.Name, kids: map[string]bool{}, entries: []json.RawMessage{}, uses: map[string]map[string]Use{}}
	for _, v := range key.Versions {
		c.kids[v.KID] = true
	}
	return c
}

// take looks at one line.
func (c *collector) take(line []byte) {
	// Details are the last that an entry has and may be named as anything. No
	// text can hold the mark that they begin with: its quotes are escaped.
	head, _, _ := bytes.Cut(line, []byte(`"detail":{`))
	kid, action := member(head, "kid"), member(head, "action")
	if member(head, "key") != c.key && !c.kids[kid] {
		return
	}
	if strings.HasPrefix(action, lifecycle) {
		c.entries = append(c.entries, bytes.Clone(line))
		return
	}
	if result := member(head, "result"); c.kids[kid] && result != "" {
		c.count(line, kid, action, result)
	}
}

// count takes in a use of a version. Refusals that the log counts together are
// as many.
func (c *collector) count(line []byte, kid, action, result string) {
	var entry audit.Entry
	if err := json.Unmarshal(line, &entry); err != nil {
		c.err = err
		return
	}
	times := uint64(1)
	if n, err := strconv.ParseUint(entry.Detail["times"], 10, 32); err == nil {
		times = n
	}
	if c.uses[kid] == nil {
		c.uses[kid] = map[string]Use{}
	}
	use := c.uses[kid][action]
	if use.First.IsZero() {
		use.First = entry.At
	}
	use.Last = entry.At
	if result == audit.ResultOK {
		use.OK += times
	} else {
		use.Failed += times
	}
	c.uses[kid][action] = use
}

// member is the text of one of an entry's members; "" if it has none.
func member(line []byte, name string) string {
	_, rest, _ := bytes.Cut(line, []byte(`"`+name+`":"`))
	text, _, ok := bytes.Cut(rest, []byte(`"`))
	if !ok {
		return ""
	}
	return string(text)
}
