package partner

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// maxPath bounds a business request's path and query, in bytes.
const maxPath = 4 << 10

// methods that a business request may have.
var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// Allow is a set of business requests that may leave keyd: those with one of
// the methods and one of the paths.
type Allow struct {
	// Methods are of GET, POST, PUT, PATCH and DELETE.
	Methods []string
	// Paths are below the base URL. A path that ends in "/" stands for all that
	// begin with it, any other for itself alone; a segment "*" stands for any
	// one segment, as in /v3/profiles/*/transfers.
	Paths []string
}

func (a Allow) check() error {
	var wrong complaints
	wrong.add(len(a.Methods) == 0 || len(a.Paths) == 0, "allow: want methods and paths")
	for _, m := range a.Methods {
		wrong.add(!slices.Contains(methods, m), "allow: method %q: want %s", m, strings.Join(methods, ", "))
	}
	for _, p := range a.Paths {
		wrong.check(checkPattern(p))
	}
	return errors.Join(wrong...)
}

// checkPattern checks a path as the config writes it.
func checkPattern(pattern string) error {
	if pattern == "/" {
		return nil
	}
	if err := checkPath(strings.TrimSuffix(pattern, "/")); err != nil {
		return fmt.Errorf("allow: path %q: %w", pattern, err)
	}
	return nil
}

// includes reports whether a request may leave.
func (a Allow) includes(method, path string) bool {
	return slices.Contains(a.Methods, method) && matchesAny(a.Paths, path)
}

func matchesAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, path) })
}

// matches holds a path that checkPath has passed against a pattern.
func matches(pattern, path string) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(path, "/")
	if last := len(want) - 1; want[last] == "" { // a prefix, of whole segments
		if len(got) <= last {
			return false
		}
		want, got = want[:last], got[:last]
	}
	return slices.EqualFunc(want, got, func(w, g string) bool { return w == g || w == "*" && g != "" })
}

// checkPath takes a path that every server and proxy on the way reads as we do:
// no percent-encoding, no dot segments, no empty ones, no path parameters
// (";", which some servers drop before they look at the dots).
func checkPath(path string) error {
	switch {
	case len(path) > maxPath:
		return fmt.Errorf("longer than %d bytes", maxPath)
	case !strings.HasPrefix(path, "/"):
		return errors.New("want it to begin with /")
	case strings.ContainsFunc(path, func(r rune) bool { return !strings.ContainsRune(pathCharacters, r) }):
		return errors.New("want only letters, digits and -._~!$&'()*+,=:@/ in it")
	}
	for segment := range strings.SplitSeq(path[1:], "/") {
		if strings.Trim(segment, ".") == "" {
			return errors.New("want no empty segments and none of dots alone")
		}
	}
	return nil
}

// pathCharacters are the pchar of RFC 3986 §3.3 without "%" and ";".
const pathCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,=:@/"

// under reports whether path is one of the prefixes or below one, whatever the
// case of its letters: some servers do not mind it.
func under(prefixes []string, path string) bool {
	path = strings.ToLower(path)
	return slices.ContainsFunc(prefixes, func(p string) bool {
		p = strings.ToLower(p)
		return path == p || strings.HasPrefix(path, p+"/")
	})
}
