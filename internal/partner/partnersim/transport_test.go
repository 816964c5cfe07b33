package partnersim_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"keyd/internal/partner/partnersim"
)

// badBody is a request body that breaks, or breaks when closed.
type badBody struct{ read, closed error }

func (b badBody) Read([]byte) (int, error) { return 0, b.read }
func (b badBody) Close() error             { return b.closed }

func TestTransportPassesOnABrokenRequestBody(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	broken := errors.New("broken")
	for _, body := range []badBody{{read: broken}, {io.EOF, broken}} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://wise.test/oauth/token", body)
		must(t, err)
		resp, err := sim.Transport().RoundTrip(req)
		if !errors.Is(err, broken) {
			_ = resp.Body.Close()
			t.Errorf("%+v: got %v", body, err)
		}
	}
	if n := sim.Count(partnersim.EndpointToken); n != 0 {
		t.Errorf("%d calls arrived", n)
	}
}

// TestTransportAnswersLikeASocket compares the two ways to reach a Sim.
func TestTransportAnswersLikeASocket(t *testing.T) {
	sim := partnersim.New(partnersim.Options{TokenFormat: partnersim.TokenUUID})
	seen := map[string][]string{}
	for name, dial := range dials {
		c := dial(t, sim)
		for _, path := range []string{"/oauth/token", wiseKeyPath, "/sim/release", "/no/such/path?q=1"} {
			a := c.do("POST", path, http.Header{"X-External-Correlation-Id": {"id"}}, "")
			a.header.Del("Date") // a server's own
			a.header.Del("X-Trace-Id")
			if a.header.Get("Content-Length") == "0" || len(a.body) == 0 {
				a.header.Del("Content-Length")
			}
			var all strings.Builder
			must(t, a.header.Write(&all))
			seen[path] = append(seen[path], http.StatusText(a.status)+"\n"+all.String()+string(a.body))
		}
		if n := sim.Count(partnersim.EndpointToken); n == 0 {
			t.Errorf("%s: no call arrived", name)
		}
	}
	for path, both := range seen {
		if both[0] != both[1] {
			t.Errorf("%s:\n%s\n--- and ---\n%s", path, both[0], both[1])
		}
	}
}
