package partnersim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// faultJSON is a Fault on the control wire; durations are Go's ("1m30s").
type faultJSON struct {
	Endpoint   Endpoint `json:"endpoint"`
	Kind       Kind     `json:"kind"`
	After      bool     `json:"after,omitempty"`
	Times      int      `json:"times,omitempty"`
	Status     int      `json:"status,omitempty"`
	Delay      string   `json:"delay,omitempty"`
	RetryAfter string   `json:"retry_after,omitempty"`
}

func (j faultJSON) fault() (Fault, error) {
	f := Fault{Endpoint: j.Endpoint, Kind: j.Kind, After: j.After, Times: j.Times, Status: j.Status}
	var err error
	if j.Delay != "" {
		if f.Delay, err = time.ParseDuration(j.Delay); err != nil {
			return f, fmt.Errorf("reading delay: %w", err)
		}
	}
	if j.RetryAfter != "" {
		if f.RetryAfter, err = time.ParseDuration(j.RetryAfter); err != nil {
			return f, fmt.Errorf("reading retry_after: %w", err)
		}
	}
	return f, nil
}

func toJSON(f Fault) faultJSON {
	j := faultJSON{Endpoint: f.Endpoint, Kind: f.Kind, After: f.After, Times: f.Times, Status: f.Status}
	if f.Delay > 0 {
		j.Delay = f.Delay.String()
	}
	if f.RetryAfter > 0 {
		j.RetryAfter = f.RetryAfter.String()
	}
	return j
}

type uploadState struct {
	KeyID      string    `json:"key_id"`
	ValidFrom  time.Time `json:"valid_from"`
	ValidTill  time.Time `json:"valid_till"`
	UploadedAt time.Time `json:"uploaded_at"`
	Revoked    bool      `json:"revoked"`
	Usable     bool      `json:"usable"` // right now
}

type keyState struct {
	Version   int       `json:"version"`
	KeyID     string    `json:"key_id"`
	RotatedAt time.Time `json:"rotated_at,omitzero"`
}

type state struct {
	Clock   time.Time     `json:"clock"`
	Uploads []uploadState `json:"uploads"`
	// Keys are those clients seal their requests to, of each partner that has
	// been asked for one.
	Keys   map[Partner][]keyState `json:"keys"`
	Tokens int                    `json:"tokens"`
	Cases  int                    `json:"cases"`
	Faults []faultJSON            `json:"faults"`
	Hung   int                    `json:"hung"`
	Calls  map[Endpoint]int       `json:"calls"`
}

// control adds the control paths to the mux.
func (s *Sim) control() {
	for pattern, serve := range map[string]func(*http.Request) (int, any, error){
		"GET /sim/state":                 s.getState,
		"GET /sim/requests":              s.getRequests,
		"POST /sim/faults":               s.postFault,
		"DELETE /sim/faults":             s.deleteFaults,
		"POST /sim/release":              s.postRelease,
		"POST /sim/rotate-key/{partner}": s.postRotate,
		"POST /sim/expire-tokens":        s.postExpire,
		"POST /sim/user-token/{partner}": s.postUserToken,
		"POST /sim/jackhenry/client":     s.postAssertionKeys,
		"POST /sim/jwe/client":           s.postClientKey,
		"POST /sim/clock":                s.postClock,
		"POST /sim/keys/{keyId}/revoke":  s.postRevoke,
	} {
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if !fromLoopback(r) {
				answerControl(w, http.StatusForbidden, problem("/sim/ answers this host only"))
				return
			}
			status, v, err := serve(r)
			if err != nil {
				v = problem(err.Error())
			}
			answerControl(w, status, v)
		})
	}
	s.mux.HandleFunc("/sim/", func(w http.ResponseWriter, _ *http.Request) {
		answerControl(w, http.StatusNotFound, problem("no such control path"))
	})
}

// fromLoopback reports whether a control call comes from this host. The
// listener ought to see to that; this holds when it was told not to.
func fromLoopback(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	return err == nil && net.ParseIP(host).IsLoopback()
}

func problem(text string) any { return map[string]string{"error": text} }

func answerControl(w http.ResponseWriter, status int, v any) {
	if v == nil {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", plainJSON)
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the caller has left: nobody to tell
}

// decode reads a control call's body, strictly: a misspelt fault is no fault.
func decode(r *http.Request, v any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return fmt.Errorf("reading the body: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("decoding the body: %w", err)
	}
	return nil
}

func (s *Sim) getState(*http.Request) (int, any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	st := state{
		Clock: now, Tokens: len(s.tokens), Cases: len(s.cases), Hung: s.hung,
		Uploads: []uploadState{}, Keys: map[Partner][]keyState{}, Faults: []faultJSON{}, Calls: map[Endpoint]int{},
	}
	for _, u := range s.uploads {
		st.Uploads = append(st.Uploads, uploadState{u.KeyID, u.ValidFrom, u.ValidTill, u.UploadedAt, u.Revoked, u.usable(now, s.opt.ActivationLag)})
	}
	for p, ring := range s.keys {
		for _, k := range ring {
			st.Keys[p] = append(st.Keys[p], keyState{k.version, k.id, k.rotatedAt})
		}
	}
	for _, f := range s.faults {
		st.Faults = append(st.Faults, toJSON(*f))
	}
	for e, n := range s.counts {
		if e == "" {
			e = "unknown"
		}
		st.Calls[e] = n
	}
	return http.StatusOK, st, nil
}

func (s *Sim) getRequests(*http.Request) (int, any, error) {
	return http.StatusOK, s.Requests(), nil
}

func (s *Sim) postFault(r *http.Request) (int, any, error) {
	var j faultJSON
	if err := decode(r, &j); err != nil {
		return http.StatusBadRequest, nil, err
	}
	f, err := j.fault()
	if err == nil {
		err = s.Fail(f)
	}
	if err != nil {
		return http.StatusBadRequest, nil, err
	}
	return http.StatusCreated, j, nil
}

func (s *Sim) deleteFaults(*http.Request) (int, any, error) {
	s.ClearFaults()
	return http.StatusNoContent, nil, nil
}

func (s *Sim) postRelease(*http.Request) (int, any, error) {
	s.Release()
	return http.StatusNoContent, nil, nil
}

func (s *Sim) postRotate(r *http.Request) (int, any, error) {
	p, err := known(r.PathValue("partner"))
	if err != nil {
		return http.StatusNotFound, nil, err
	}
	return http.StatusCreated, map[string]int{"version": s.Rotate(p)}, nil
}

func (s *Sim) postExpire(*http.Request) (int, any, error) {
	s.ExpireTokens()
	return http.StatusNoContent, nil, nil
}

func (s *Sim) postClock(r *http.Request) (int, any, error) {
	var in struct {
		Offset string `json:"offset"`
	}
	if err := decode(r, &in); err != nil {
		return http.StatusBadRequest, nil, err
	}
	d, err := time.ParseDuration(in.Offset)
	if err != nil {
		return http.StatusBadRequest, nil, fmt.Errorf("reading offset: %w", err)
	}
	s.SetClockOffset(d)
	return s.getState(r)
}

func (s *Sim) postRevoke(r *http.Request) (int, any, error) {
	if !s.Revoke(r.PathValue("keyId")) {
		return http.StatusNotFound, nil, fmt.Errorf("no key %q has been uploaded", r.PathValue("keyId"))
	}
	return http.StatusNoContent, nil, nil
}

func (s *Sim) postUserToken(r *http.Request) (int, any, error) {
	p, err := known(r.PathValue("partner"))
	if err != nil {
		return http.StatusNotFound, nil, err
	}
	return http.StatusCreated, map[string]string{"access_token": s.NewUserToken(p)}, nil
}

// known is the partner of a control path.
func known(name string) (Partner, error) {
	if p := Partner(name); partners[p] != nil {
		return p, nil
	}
	return "", fmt.Errorf("there is no partner %q", name)
}
