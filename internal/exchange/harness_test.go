package exchange_test

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"keyd/internal/boundary"
	"keyd/internal/exchange"
	"keyd/internal/jwe"
	"keyd/internal/rotation/backendtest"
)

const (
	ttl  = 3 * time.Minute
	most = 1 << 20
)

var (
	owner = exchange.Owner{Partner: "wise", UID: 1000}
	encs  = []string{boundary.A128GCM, boundary.A192GCM, boundary.A256GCM, boundary.A128CBCHS256, boundary.A256CBCHS512}
	algs  = []string{boundary.ECDHES, boundary.ECDHESA128KW, boundary.ECDHESA256KW}
)

// theirs is the partner's own key.
var theirs = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// ends are the exchanges that ended.
type ends struct {
	mu  sync.Mutex
	all []exchange.Ended
}

func (e *ends) add(over exchange.Ended) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, over)
}

func (e *ends) how() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var how []string
	for _, over := range e.all {
		how = append(how, over.How)
	}
	return how
}

// table is one under test, with what it said.
type table struct {
	*exchange.Table
	t    testing.TB
	ends *ends
}

func newTable(t testing.TB, change ...func(*exchange.Config)) *table {
	t.Helper()
	over := &ends{}
	cfg := exchange.Config{TTL: ttl, PerPartner: 8, PerUser: 4, Partners: 2, Over: over.add}
	for _, c := range change {
		c(&cfg)
	}
	tab, err := exchange.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := tab.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return &table{tab, t, over}
}

// seal makes a request and begins its exchange. The content key stays with the
// partner alone.
func (tab *table) seal(owner exchange.Owner, holder exchange.Holder, enc string) (exchange.Ticket, []byte) {
	tab.t.Helper()
	_, cek, err := jwe.SealKeeping(&theirs().PublicKey, jwe.SealHeader{Alg: jwe.SealRSAOAEP256, Enc: enc}, []byte("request"))
	if err != nil {
		tab.t.Fatal(err)
	}
	partners := slices.Clone(cek)
	ticket, err := tab.Direct(context.Background(), owner, holder, enc, cek)
	clear(cek)
	if err != nil {
		tab.t.Fatal(err)
	}
	return ticket, partners
}

// reply is what the partner seals under the content key of the request.
func reply(t testing.TB, cek []byte, enc, text string) []byte {
	t.Helper()
	return sealed(t, jose.Recipient{Algorithm: jose.DIRECT, Key: slices.Clone(cek)}, enc, text)
}

func sealed(t testing.TB, to jose.Recipient, enc, text string) []byte {
	t.Helper()
	encrypter, err := jose.NewEncrypter(jose.ContentEncryption(enc), to, nil)
	if err != nil {
		t.Fatal(err)
	}
	object, err := encrypter.Encrypt([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	compact, err := object.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return []byte(compact)
}

// answer seals to the public key of an exchange.
func answer(t testing.TB, public *ecdh.PublicKey, alg jwe.SealAlg, enc, text string) []byte {
	t.Helper()
	compact, err := jwe.Seal(public, jwe.SealHeader{Alg: alg, Enc: enc, KID: "whatever"}, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return []byte(compact)
}

func (tab *table) opens(owner exchange.Owner, id string, compact []byte, want string) {
	tab.t.Helper()
	got, err := tab.Open(context.Background(), owner, id, most, compact)
	if err != nil || len(got) != 1 || string(got[0].Plaintext) != want {
		tab.t.Fatalf("Open = %v, %v, want %q", got, err, want)
	}
}

func (tab *table) refuses(owner exchange.Owner, id string, compact []byte, want error) {
	tab.t.Helper()
	if got, err := tab.Open(context.Background(), owner, id, most, compact); got != nil || !errors.Is(err, want) {
		tab.t.Fatalf("Open = %v, %v, want %v", got, err, want)
	}
}

func memoryToken() *backendtest.Memory {
	return backendtest.NewMemory(backendtest.MemoryOptions{Name: "memory"})
}
