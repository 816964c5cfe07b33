package field_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"keyd/internal/field"
)

func at(t testing.TB, pointer string) field.Pointer {
	t.Helper()
	p, err := field.ParsePointer(pointer)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func parse(t testing.TB, text string) *field.Document {
	t.Helper()
	d, err := field.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The document and the pointers of RFC 6901 §5.
func TestThePointersOfTheRFC(t *testing.T) {
	d := parse(t, `{"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, "k\"l": 6, " ": 7, "m~n": 8}`)
	for pointer, want := range map[string]string{
		"/foo": `["bar", "baz"]`, "/foo/0": `"bar"`, "/foo/1": `"baz"`, "/": "0", "/a~1b": "1", "/c%d": "2", "/e^f": "3", "/g|h": "4",
		`/i\j`: "5", `/k"l`: "6", "/ ": "7", "/m~0n": "8",
	} {
		p := at(t, pointer)
		if got, err := d.Value(p); err != nil || string(got) != want || p.String() != pointer {
			t.Errorf("%s: got %s, %v, want %s", pointer, got, err, want)
		}
	}
	if got, err := d.Value(at(t, "")); err != nil || !bytes.HasPrefix(got, []byte(`{"foo"`)) || !at(t, "").Whole() {
		t.Errorf("the whole: %s, %v", got, err)
	}
}

func TestValuesThatAreNotThere(t *testing.T) {
	d := parse(t, `{"a":{"b":[{"c":1}, 2]},"s":"x","\ud800":1,"e":{},"f":[]}`)
	for _, pointer := range []string{"/x", "/a/x", "/a/b/2", "/a/b/-", "/a/b/00", "/a/b/+0", "/a/b/ 0", "/a/b/0x0", "/a/b/99999999999999999999", "/a/b/", "/s/0", "/a/b/1/x", "/e/a", "/f/0", "/A", "/a/b/0/c/d"} {
		if got, err := d.Value(at(t, pointer)); !errors.Is(err, field.ErrMissing) || !strings.Contains(err.Error(), pointer) {
			t.Errorf("%s: got %q, %v, want ErrMissing", pointer, got, err)
		}
	}
	for pointer, want := range map[string]string{"/a/b/0/c": "1", "/a/b/1": "2"} {
		if got, err := d.Value(at(t, pointer)); err != nil || string(got) != want {
			t.Errorf("%s: got %s, %v", pointer, got, err)
		}
	}
}

func TestPointersThatAreNone(t *testing.T) {
	for _, text := range []string{"a", "a/b", " /a", "/~", "/~2", "/a~", "/a/b~x", "/\xff", "/" + strings.Repeat("x", 512), strings.Repeat("/a", 33)} {
		if p, err := field.ParsePointer(text); !errors.Is(err, field.ErrPointer) {
			t.Errorf("%.40q: got %v, %v", text, p, err)
		}
	}
	if p := at(t, "/~01"); p.String() != "/~01" {
		t.Errorf("~01 became %s", p)
	}
}

func TestDocumentsThatAreNone(t *testing.T) {
	for _, text := range []string{"", " ", "{", `{"a":1}x`, `{'a':1}`, "{\"a\":\"\xff\"}", "\ufeff{}", `{"a":01}`, `[1,]`, "nul"} {
		if _, err := field.Parse([]byte(text)); !errors.Is(err, field.ErrDocument) {
			t.Errorf("%q: got %v", text, err)
		}
	}
	// Which of the two the next reader takes is anybody's guess.
	for _, text := range []string{`{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"a":1,"b":{"a":3},"a":{}}`} {
		if got, err := parse(t, text).Value(at(t, "/a")); !errors.Is(err, field.ErrDocument) {
			t.Errorf("%s: got %s, %v", text, got, err)
		}
	}
	if got, err := parse(t, `{"a":{"x":1,"x":2},"b":3}`).Value(at(t, "/b")); err != nil || string(got) != "3" {
		t.Errorf("what is not looked at: %s, %v", got, err)
	}
}

func TestNothingElseIsTouched(t *testing.T) {
	text := "{ \"n\" : 1.0e+2,\t\"a\":[1,\"two\" , {\"x\":\"\\u00e9\\/\"}],\r\n\"z\":null,\"big\":12345678901234567890 , \"empty\":{ } }\n"
	d := parse(t, text)
	got, err := d.Apply([]field.Edit{{At: at(t, "/z"), JSON: []byte(`"Z"`)}, {At: at(t, "/a/1"), JSON: []byte(`2`)}, {At: at(t, "/a/2/x"), JSON: []byte(`{"y":1}`)},
		{At: at(t, "/empty/new"), JSON: []byte(`true`), Add: true}, {At: at(t, "/k\"ey"), JSON: []byte(`"added"`), Add: true}})
	want := "{ \"n\" : 1.0e+2,\t\"a\":[1,2 , {\"x\":{\"y\":1}}],\r\n\"z\":\"Z\",\"big\":12345678901234567890 , \"empty\":{\"new\":true }" + `,"k\"ey":"added"` + " }\n"
	if err != nil || string(got) != want {
		t.Errorf("got\n%s\n%v, want\n%s", got, err, want)
	}
	if again, err := d.Apply(nil); err != nil || string(again) != text {
		t.Errorf("without edits: %s, %v", again, err)
	}
	whole, err := d.Apply([]field.Edit{{At: at(t, ""), JSON: []byte("1")}})
	if err != nil || string(whole) != "1\n" {
		t.Errorf("the whole: %q, %v", whole, err)
	}
}

func TestEditsThatCannotBeMade(t *testing.T) {
	d := parse(t, `{"a":{"b":1},"c":[1,2],"d":"x","e":1,"e":2}`)
	edit := func(add bool, pointers ...string) (all []field.Edit) {
		for _, p := range pointers {
			all = append(all, field.Edit{At: at(t, p), JSON: []byte("0"), Add: add})
		}
		return all
	}
	for name, v := range map[string]struct {
		edits []field.Edit
		want  error
	}{
		"missing":                    {edit(false, "/x"), field.ErrMissing},
		"missing, in an array":       {edit(true, "/c/2"), field.ErrMissing},
		"missing, in a string":       {edit(true, "/d/x"), field.ErrMissing},
		"missing, in what is":        {edit(true, "/x/y"), field.ErrMissing},
		"twice":                      {edit(false, "/a", "/a"), field.ErrOverlap},
		"a value and a part of it":   {edit(false, "/a", "/a/b"), field.ErrOverlap},
		"a part of it and a value":   {edit(false, "/a/b", "/a"), field.ErrOverlap},
		"the whole and a part":       {edit(false, "/d", ""), field.ErrOverlap},
		"a value added to a value":   {edit(true, "/a", "/a/new"), field.ErrOverlap},
		"two added to one object":    {edit(true, "/a/x", "/a/y"), field.ErrOverlap},
		"a member that stands twice": {edit(true, "/e"), field.ErrDocument},
	} {
		if got, err := d.Apply(v.edits); got != nil || !errors.Is(err, v.want) {
			t.Errorf("%s: got %s, %v, want %v", name, got, err, v.want)
		}
	}
	if _, err := parse(t, "1").Apply(edit(true, "")); err != nil {
		t.Errorf("a document that is a number: %v", err)
	}
	if _, err := parse(t, "[]").Apply(edit(true, "/a")); !errors.Is(err, field.ErrMissing) {
		t.Errorf("a member of an array: %v", err)
	}
}

func TestTextIsWhatAStringMeans(t *testing.T) {
	for value, want := range map[string]string{
		`""`: "", `"4396910000012345"`: "4396910000012345", `"\"\\\/\b\f\n\r\t"`: "\"\\/\b\f\n\r\t", `"\u00e9\u20AC\ud83d\udd11é"`: "é€🔑é",
		`"\u0000"`: "\x00", `123`: "123", `1.0e+2`: "1.0e+2", `{ "a" : 1 }`: `{ "a" : 1 }`, `null`: "null", `"\\u0041"`: `\u0041`,
	} {
		got, err := field.Text([]byte(value))
		if err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", value, got, err, want)
		}
	}
	for _, value := range []string{`"\ud800"`, `"\udc00"`, `"\ud800x"`, `"\ud800\n"`, `"\ud800\ud800"`, `"\udc00\ud800"`, `"\ud83d\u0041"`} {
		if got, err := field.Text([]byte(value)); got != nil || !errors.Is(err, field.ErrDocument) {
			t.Errorf("%s: got %q, %v", value, got, err)
		}
	}
	if field.CheckText([]byte("\xff")) == nil || field.CheckText([]byte("é")) != nil {
		t.Error("CheckText takes what is not UTF-8, or refuses what is")
	}
}

func TestWhatIsQuotedReadsBack(t *testing.T) {
	for _, text := range []string{"", "plain", "\"\\/\b\f\n\r\t\x00\x1f\x7f", "é€🔑\u2028<>&", strings.Repeat("x", 5000)} {
		quoted := field.Quote(nil, []byte(text))
		var back string
		if err := json.Unmarshal(quoted, &back); err != nil || back != text {
			t.Errorf("%q: quoted %s, reads back %q, %v", text, quoted, back, err)
		}
		if again, err := field.Text(quoted); err != nil || string(again) != text {
			t.Errorf("%q: Text reads %q, %v", text, again, err)
		}
	}
}

// FuzzField: what is found is what encoding/json finds, and what is put in its
// place changes nothing else.
func FuzzField(f *testing.F) {
	for _, seed := range [][2]string{{`{"a":{"b":[1,"x\u00e9",{"c":null}]}}`, "/a/b/2/c"}, {`[[["\ud83d\udd11"]]]`, "/0/0/0"}, {` { "a~b" : "\"" , "" : {} } `, "/a~0b"},
		{`{"a":1,"a":2}`, "/a"}, {`"x"`, ""}, {`{"\u0061":[]}`, "/a/0"}, {`{"a":{}}`, "/a/new"}} {
		f.Add([]byte(seed[0]), seed[1])
	}
	f.Fuzz(func(t *testing.T, text []byte, pointer string) {
		p, err := field.ParsePointer(pointer)
		if err != nil {
			return
		}
		if p.String() != pointer {
			t.Errorf("%q reads back as %q", pointer, p)
		}
		d, err := field.Parse(text)
		if err != nil {
			if json.Valid(text) && utf8.Valid(text) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		value, err := d.Value(p)
		if err != nil {
			return
		}
		want := resolve(t, text, p.String())
		if !bytes.Equal(value, bytes.TrimSpace(want)) {
			t.Errorf("%s in %s: got %s, want %s", pointer, text, value, want)
		}
		if plain, err := field.Text(value); err == nil && value[0] == '"' {
			var s string
			if json.Unmarshal(value, &s) != nil || s != string(plain) {
				t.Errorf("%s means %q, want %q", value, plain, s)
			}
		}
		out, err := d.Apply([]field.Edit{{At: p, JSON: []byte(`"put"`), Add: true}})
		if err != nil || len(out) != len(text)-len(value)+5 || !json.Valid(out) {
			t.Errorf("%s in %s: got %s, %v", pointer, text, out, err)
		}
		back, err := d.Apply([]field.Edit{{At: p, JSON: value}})
		if err != nil || !bytes.Equal(back, text) {
			t.Errorf("%s in %s: put back as %s, %v", pointer, text, back, err)
		}
	})
}

// resolve is RFC 6901 §4 by encoding/json.
func resolve(t *testing.T, text []byte, pointer string) []byte {
	t.Helper()
	raw := json.RawMessage(text)
	if pointer == "" {
		return raw
	}
	for token := range strings.SplitSeq(pointer[1:], "/") {
		token = strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")
		var object map[string]json.RawMessage
		var array []json.RawMessage
		switch {
		case json.Unmarshal(raw, &object) == nil && object != nil:
			raw = object[token]
		case json.Unmarshal(raw, &array) == nil:
			var i int
			if err := json.Unmarshal([]byte(token), &i); err != nil || i >= len(array) {
				t.Fatalf("%s is not in %s", token, raw)
			}
			raw = array[i]
		}
	}
	return raw
}
