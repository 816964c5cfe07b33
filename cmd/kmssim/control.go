package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"keyd/internal/kms/kmstest"
)

// fault is a kmstest.Fault as it is asked for: POST /sim/faults makes coming
// requests fail, DELETE takes back those that have not happened yet.
type fault struct {
	Op    string `json:"op"`    // "Decrypt"; "" is any
	After bool   `json:"after"` // the request does its work, and its answer is lost
	Code  string `json:"code"`  // answered instead, such as "ThrottlingException"
	Drop  bool   `json:"drop"`  // the connection is cut instead
	Delay string `json:"delay"` // before everything else: "2s"
	Times int    `json:"times"` // 0 is one
}

// handler is KMS at /, and what makes it fail beside it.
func handler(region string) http.Handler {
	kms := kmstest.New(kmstest.Options{Region: region, Logger: slog.New(slog.DiscardHandler)})
	mux := http.NewServeMux()
	mux.Handle("/", kms)
	mux.HandleFunc("POST /sim/faults", func(w http.ResponseWriter, r *http.Request) {
		var f fault
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16))
		dec.DisallowUnknownFields()
		err := dec.Decode(&f)
		if err == nil && f.Op != "" && !kmstest.Pretends(f.Op) {
			err = fmt.Errorf("op %q: kmssim does not pretend it", f.Op)
		}
		var delay time.Duration
		if err == nil && f.Delay != "" {
			delay, err = time.ParseDuration(f.Delay)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		kms.Inject(kmstest.Fault{Op: f.Op, After: f.After, Code: f.Code, Drop: f.Drop, Delay: delay, Times: f.Times})
	})
	mux.HandleFunc("DELETE /sim/faults", func(http.ResponseWriter, *http.Request) { kms.Heal() })
	return mux
}
