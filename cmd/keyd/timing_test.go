package main

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"keyd/internal/boundary/oaeptest"
	"keyd/internal/dudect"
)

// How often each refusal is asked for. `make timing` asks for thousands, of
// which the t value means something.
var samples = flag.Int("timing-samples", 60, "measurements of each class in the timing test")

// TestRefusalsLookTheSameFromOutside asks the daemon, over its socket and with a
// real token at level raw, to open what is wrong in every way that only the
// private key could tell apart. The answers are the same to the byte, and take
// the same time.
func TestRefusalsLookTheSameFromOutside(t *testing.T) {
	d := newTarget(t)
	conn, err := net.Dial("unix", d.client)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	first := ask(t, conn, answers, d.requests(t)["bad tag"]())
	if !bytes.HasPrefix(first, []byte("HTTP/1.1 422 ")) || !bytes.Contains(first, []byte(`"open_failed"`)) {
		t.Fatalf("the answer is %s", first)
	}
	var classes []dudect.Class
	for name, request := range d.requests(t) {
		classes = append(classes, dudect.Class{Name: name, Make: request})
	}
	slices.SortFunc(classes, func(a, b dudect.Class) int { return strings.Compare(a.Name, b.Name) })
	different := 0
	found := dudect.Measure(classes, *samples, func(request []byte) {
		if answer := ask(t, conn, answers, request); !bytes.Equal(answer, first) && different == 0 {
			different++
			t.Errorf("one answer is\n%s\nand another\n%s", first, answer)
		}
	})
	t.Logf("over the socket, t of each pair:\n%s", found)
	if a, b, worst := found.Worst(); *samples >= 2000 && math.Abs(worst) >= 4.5 {
		t.Errorf("%s and %s differ: t = %.2f", a, b, worst)
	}
}

// requests makes whole HTTP requests, all of one length.
func (d *target) requests(tb testing.TB) map[string]func() []byte {
	tb.Helper()
	header, err := json.Marshal(map[string]string{"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": d.kid})
	if err != nil {
		tb.Fatal(err)
	}
	aad := base64.RawURLEncoding.EncodeToString(header)
	encodings := oaeptest.Wrong(d.rsa.Size())
	encodings["bad tag"] = func(cek []byte) []byte { return oaeptest.Right(d.rsa.Size(), cek) }
	made := map[string]func() []byte{}
	for name, encode := range encodings {
		made[name] = func() []byte {
			cek := oaeptest.Random(32)
			compact := aad + "." + forged(tb, d.rsa, cek, encode(cek), aad)
			return fmt.Appendf(nil, "POST /v1/partners/wise/decrypt HTTP/1.1\r\nHost: keyd\r\nKeyd-Request-Id: timing\r\nContent-Length: %d\r\n\r\n%s", len(compact), compact)
		}
	}
	return made
}

// forged is the rest of an envelope: the encoding encrypted, and content of the
// content key with a bit of its tag changed.
func forged(tb testing.TB, public *rsa.PublicKey, cek, encoding []byte, aad string) string {
	tb.Helper()
	block, err := aes.NewCipher(cek)
	if err != nil {
		tb.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		tb.Fatal(err)
	}
	iv := oaeptest.Random(gcm.NonceSize())
	sealed := gcm.Seal(nil, iv, make([]byte, 64), []byte(aad))
	sealed[len(sealed)-1] ^= 1
	part := base64.RawURLEncoding.EncodeToString
	return part(oaeptest.Encrypt(public, encoding)) + "." + part(iv) + "." + part(sealed[:64]) + "." + part(sealed[64:])
}

var date = regexp.MustCompile(`(?m)^Date: .*\r\n`)

// ask sends a request and returns the answer as it came, but for its date.
func ask(tb testing.TB, conn net.Conn, answers *bufio.Reader, request []byte) []byte {
	tb.Helper()
	if _, err := conn.Write(request); err != nil {
		tb.Fatal(err)
	}
	var head bytes.Buffer
	length := 0
	for {
		line, err := answers.ReadString('\n')
		if err != nil {
			tb.Fatal(err)
		}
		head.WriteString(line)
		if value, ok := strings.CutPrefix(line, "Content-Length: "); ok {
			length, _ = strconv.Atoi(strings.TrimSpace(value))
		}
		if line == "\r\n" {
			break
		}
	}
	if _, err := io.CopyN(&head, answers, int64(length)); err != nil {
		tb.Fatal(err)
	}
	return date.ReplaceAll(head.Bytes(), nil)
}
