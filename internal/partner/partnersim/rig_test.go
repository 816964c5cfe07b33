package partnersim_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyd/internal/partner/partnersim"
)

var (
	allEndpoints = []partnersim.Endpoint{
		partnersim.EndpointToken, partnersim.EndpointUpload, partnersim.EndpointWiseKey, partnersim.EndpointProbe,
		partnersim.EndpointPlayground, partnersim.EndpointCaseCreate, partnersim.EndpointCase,
	}
	sealedEndpoints = allEndpoints[3:]
)

// rig is a client ready to call any endpoint once, with success.
type rig struct {
	*client
	sim *partnersim.Sim
	jwe map[partnersim.Endpoint]string
}

func newRig(t *testing.T, dial func(*testing.T, *partnersim.Sim) *client) *rig {
	sim := partnersim.New(partnersim.Options{})
	r := &rig{client: dial(t, sim).login(), sim: sim, jwe: map[partnersim.Endpoint]string{}}
	r.day(0)
	wise, _ := r.fetch("")
	r.jwe[partnersim.EndpointPlayground] = seal(t, wise, nil, `{"message":"m"}`)
	r.jwe[partnersim.EndpointCaseCreate] = seal(t, wise, nil, `{"type":"GENERAL_ENQUIRY","subject":"s"}`)
	if _, err := r.call(partnersim.EndpointCaseCreate); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) call(e partnersim.Endpoint) (answer, error) {
	switch e {
	case partnersim.EndpointToken:
		return r.tryLogin()
	case partnersim.EndpointUpload:
		return r.tryUpload(uploadJSON(uuid.NewString(), &keyPool()[0].PublicKey, time.Now().Add(-time.Hour), time.Now().Add(time.Hour)))
	case partnersim.EndpointWiseKey:
		return r.try("GET", wiseKeyPath, nil, "")
	case partnersim.EndpointProbe:
		return r.try("GET", probePath, joseHeaders(), "")
	case partnersim.EndpointPlayground:
		return r.try("POST", probePath, joseHeaders(), r.jwe[e])
	case partnersim.EndpointCaseCreate:
		return r.try("POST", "/v1/cases", joseHeaders(), r.jwe[e])
	default:
		return r.try("GET", "/v1/cases/123456789", joseHeaders(), "")
	}
}

// works checks that the endpoint answers as it should.
func (r *rig) works(e partnersim.Endpoint) {
	r.t.Helper()
	a, err := r.call(e)
	if err != nil || a.status >= 300 {
		r.t.Fatalf("%s without a fault: %d %s %v", e, a.status, a.body, err)
	}
	if slices.Contains(sealedEndpoints, e) {
		if _, _, err := r.open(answer{a.status, a.header, a.body}); err != nil && !strings.Contains(err.Error(), "no key") {
			r.t.Fatalf("%s without a fault: %v", e, err)
		}
	}
}

func (r *rig) last() partnersim.Request {
	log := r.sim.Requests()
	return log[len(log)-1]
}

var dials = map[string]func(*testing.T, *partnersim.Sim) *client{"direct": direct, "served": served}

// changes is what a call of each endpoint changes at Wise.
func changes(e partnersim.Endpoint) bool {
	return slices.Contains([]partnersim.Endpoint{partnersim.EndpointToken, partnersim.EndpointUpload, partnersim.EndpointCaseCreate}, e)
}
