package kmstest

import (
	"encoding/json"
	"time"
)

// grant is a permission by a tag of the key.
type grant struct {
	name, value string
	lag         time.Duration
}

// Tagged allows operations only on keys with a tag from now on, as an IAM policy
// with the condition aws:ResourceTag does, and only some time after the key was
// made: AWS takes up to five minutes to apply tags to permissions. A key or alias
// that is not there has no tags, so the answer is AccessDeniedException then too,
// and not NotFoundException.
func (s *Server) Tagged(name, value string, lag time.Duration, operations ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, operation := range operations {
		s.grants[operation] = grant{name, value, lag}
	}
}

// granted reports whether tags allow an operation on the key that it names.
func (s *Server) granted(operation string, body []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, conditional := s.grants[operation]
	if !conditional {
		return nil
	}
	var in struct {
		KeyID       string `json:"KeyId"`
		TargetKeyID string `json:"TargetKeyId"`
	}
	_ = json.Unmarshal(body, &in) // what is no JSON names no key
	k, err := s.byName(in.KeyID + in.TargetKeyID)
	if err == nil && k.tags[g.name] == g.value && time.Since(k.created) >= g.lag {
		return nil
	}
	return s.accessDenied(operation)
}

func (s *Server) accessDenied(operation string) error {
	return refuse("AccessDeniedException", "User: arn:aws:iam::%s:user/test is not authorized to perform: kms:%s", s.opts.Account, operation)
}
