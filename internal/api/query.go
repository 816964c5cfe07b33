package api

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// repeatable are the parameters that may stand more than once.
var repeatable = []string{"field", "field_json"}

// readQuery takes no parameter that the route does not know: a misspelled
// dry_run must not become the real thing.
func (x *visit) readQuery() error {
	if x.r.URL.RawQuery == "" {
		return nil
	}
	query, err := url.ParseQuery(x.r.URL.RawQuery)
	if err != nil {
		return fmt.Errorf("%w: the query: %w", errBadRequest, err)
	}
	for name, values := range query {
		if !slices.Contains(x.route.query, name) {
			return fmt.Errorf("%w: no parameter %+.32q is known here", errBadRequest, name)
		}
		if len(values) != 1 && !slices.Contains(repeatable, name) {
			return fmt.Errorf("%w: the parameter %s stands %d times", errBadRequest, name, len(values))
		}
	}
	x.query = query
	return nil
}

// flag reads a parameter that is true or false.
func (x *visit) flag(name string) (bool, error) {
	switch x.query.Get(name) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	case "":
		if !x.query.Has(name) {
			return false, nil
		}
	}
	return false, fmt.Errorf("%w: %s is %+.32q, want true or false", errBadRequest, name, x.query.Get(name))
}

// maxPath is how long the path of a request to a partner may be: it goes into
// the JOSE header.
const maxPath = 2048

// sealedPath reads the path that a sealed request is for. It
// must be a path: nothing that a partner could take for another host.
func (x *visit) sealedPath() (string, error) {
	text := x.query.Get("url")
	if !x.query.Has("url") {
		return "", nil
	}
	if len(text) > maxPath {
		return "", fmt.Errorf("%w: url has %d bytes, want at most %d", errBadRequest, len(text), maxPath)
	}
	strange := strings.IndexFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0
	u, err := url.Parse(text)
	if strange || err != nil || !strings.HasPrefix(text, "/") || u.Scheme != "" || u.Host != "" || strings.HasPrefix(text, "//") {
		return "", fmt.Errorf("%w: url is %q, want an absolute path in printable ASCII, such as /v1/cases", errBadRequest, printable(text))
	}
	return text, nil
}

// verb reads the HTTP method of the request that is sealed; POST if none is said.
func (x *visit) verb() (string, error) {
	verb := x.query.Get("method")
	switch {
	case !x.query.Has("method"):
		return http.MethodPost, nil
	case slices.Contains([]string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}, verb):
		return verb, nil
	}
	return "", fmt.Errorf("%w: method is %+.16q, want POST, PUT, PATCH or DELETE", errBadRequest, verb)
}

// number reads a parameter that counts.
func (x *visit) number(name string, otherwise, most uint64) (uint64, error) {
	if !x.query.Has(name) {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(x.query.Get(name), 10, 64)
	if err != nil || n > most {
		return 0, fmt.Errorf("%w: %s is %+.32q, want a number up to %d", errBadRequest, name, x.query.Get(name), most)
	}
	return n, nil
}
