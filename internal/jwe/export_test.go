package jwe

// The two readers of a header, for tests to hold against each other. Each gives
// the alg, the enc and the kid.

func ReadPlain(text string) ([3]string, bool) {
	h, ok := readPlain(text)
	return [3]string{h.alg, h.enc, h.kid}, ok
}

func ReadMembers(text string) ([3]string, error) {
	h, err := readMembers([]byte(text))
	return [3]string{h.alg, h.enc, h.kid}, err
}
