package partner

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// FieldRule says which values of a request's body are sealed, for partners that
// want values sealed and not the whole body.
type FieldRule struct {
	// Paths are as in Allow.
	Paths []string
	// Seal are JSON pointers (RFC 6901) of the values. Do refuses a request that
	// has one of them in clear.
	Seal []string
	// PublicKey is the JSON pointer of the member that carries our public key;
	// "" where none does.
	PublicKey string
}

func (r FieldRule) check(wrong *complaints) {
	wrong.add(len(r.Paths) == 0, "fields: want paths")
	for _, p := range r.Paths {
		wrong.check(checkPattern(p))
	}
	for _, p := range append(slices.Clone(r.Seal), r.PublicKey) {
		wrong.add(p != "" && !strings.HasPrefix(p, "/"), "fields: %q is not a JSON pointer", p)
	}
}

// fieldsOf applies the first rule that has the path.
func fieldsOf(rules []FieldRule, path string, e *Endpoint) {
	for _, r := range rules {
		if matchesAny(r.Paths, path) {
			e.Seal, e.PublicKey = slices.Clone(r.Seal), r.PublicKey
			return
		}
	}
}

// checkFields refuses a body that is no JSON object, or has in clear what the
// endpoint wants sealed.
func checkFields(body []byte, e Endpoint) error {
	if len(body) == 0 {
		return nil
	}
	members, err := readObject(body)
	if err != nil {
		return err
	}
	for _, pointer := range e.Seal {
		value, ok := at(members, pointer)
		text, _ := value.(string)
		if ok && !isCompact([]byte(text)) {
			return fmt.Errorf("%w: the value at %s is not sealed", ErrRequest, pointer)
		}
	}
	return nil
}

// readObject reads a body that is a JSON object of one meaning: of two members
// of a name, the partner might take the one that was not looked at.
func readObject(body []byte) (map[string]any, error) {
	var members map[string]any
	if json.Unmarshal(body, &members) != nil || members == nil {
		return nil, fmt.Errorf("%w: the body is not a JSON object", ErrRequest)
	}
	if !unique(json.NewDecoder(bytes.NewReader(body))) {
		return nil, fmt.Errorf("%w: the body has a member twice", ErrRequest)
	}
	return members, nil
}

// unique reports whether no object in the next value has a member twice. The
// value is known to be valid JSON.
func unique(dec *json.Decoder) bool {
	token, err := dec.Token()
	if err != nil {
		return false
	}
	open, nested := token.(json.Delim)
	if !nested {
		return true
	}
	seen := map[any]bool{}
	for dec.More() {
		if open == '{' {
			name, err := dec.Token()
			if err != nil || seen[name] {
				return false
			}
			seen[name] = true
		}
		if !unique(dec) {
			return false
		}
	}
	_, err = dec.Token() // the closing one
	return err == nil
}

// at resolves a JSON pointer.
func at(v any, pointer string) (any, bool) {
	if pointer == "" {
		return v, true
	}
	for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		token = strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
		switch in := v.(type) {
		case map[string]any:
			next, ok := in[token]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			i, err := strconv.Atoi(token)
			if err != nil || i < 0 || i >= len(in) {
				return nil, false
			}
			v = in[i]
		default:
			return nil, false
		}
	}
	return v, true
}
