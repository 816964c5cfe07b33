package kmstest

import (
	"encoding/base64"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// alias is a name of a key.
type alias struct {
	target           string // key id
	created, updated time.Time
}

// aliasName is what CreateAlias accepts; alias/aws/ is reserved besides.
var aliasName = regexp.MustCompile(`^alias/[a-zA-Z0-9/_-]+$`)

type aliasInput struct {
	AliasName   string
	TargetKeyID string `json:"TargetKeyId"`
}

func checkAlias(name string) error {
	if len(name) > 256 || !aliasName.MatchString(name) || strings.HasPrefix(name, "alias/aws/") {
		return refuse("InvalidAliasNameException", "Alias must start with the prefix \"alias/\", hold letters, digits, /, _ and - only, "+
			"and not begin with \"alias/aws/\"")
	}
	return nil
}

// target finds the key an alias is to name.
func (s *Server) target(in *aliasInput) (*key, error) {
	if err := checkAlias(in.AliasName); err != nil {
		return nil, err
	}
	if strings.HasPrefix(in.TargetKeyID, "alias/") {
		return nil, refuse("ValidationException", "Aliases must refer to keys. Not aliases")
	}
	k, err := s.byID(in.TargetKeyID)
	if err != nil {
		return nil, err
	}
	if k.state == PendingDeletion {
		return nil, k.invalidState()
	}
	return k, nil
}

func (s *Server) createAlias(in *aliasInput) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.target(in)
	if err != nil {
		return nil, err
	}
	if s.aliases[in.AliasName] != nil {
		return nil, refuse("AlreadyExistsException", "An alias with the name arn:aws:kms:%s:%s:%s already exists",
			s.opts.Region, s.opts.Account, in.AliasName)
	}
	now := time.Now()
	s.aliases[in.AliasName] = &alias{target: k.id, created: now, updated: now}
	return nil, nil
}

func (s *Server) updateAlias(in *aliasInput) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.target(in)
	if err != nil {
		return nil, err
	}
	a := s.aliases[in.AliasName]
	if a == nil {
		return nil, s.noAlias(in.AliasName)
	}
	if old := s.keys[a.target]; old != nil && old.usage != k.usage {
		return nil, refuse("ValidationException", "The current and the new key must have the same key usage")
	}
	a.target, a.updated = k.id, time.Now()
	return nil, nil
}

func (s *Server) noAlias(name string) error {
	return refuse("NotFoundException", "Alias arn:aws:kms:%s:%s:%s is not found.", s.opts.Region, s.opts.Account, name)
}

func (s *Server) deleteAlias(in *struct{ AliasName string }) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reap()
	if s.aliases[in.AliasName] == nil {
		return nil, s.noAlias(in.AliasName)
	}
	delete(s.aliases, in.AliasName)
	return nil, nil
}

type listKeyInput struct {
	KeyID  string `json:"KeyId"`
	Limit  *int
	Marker string
}

func (s *Server) listAliases(in *listKeyInput) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reap()
	only := ""
	if in.KeyID != "" {
		k, err := s.byID(in.KeyID)
		if err != nil {
			return nil, err
		}
		only = k.id
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(s.aliases)) {
		if only == "" || s.aliases[name].target == only {
			names = append(names, name)
		}
	}
	page, next, err := s.page(names, listInput{in.Limit, in.Marker}, 50, 100)
	if err != nil {
		return nil, err
	}
	entries := []map[string]any{}
	for _, name := range page {
		a := s.aliases[name]
		entries = append(entries, map[string]any{"AliasName": name, "TargetKeyId": a.target,
			"AliasArn":     "arn:aws:kms:" + s.opts.Region + ":" + s.opts.Account + ":" + name,
			"CreationDate": seconds(a.created), "LastUpdatedDate": seconds(a.updated)})
	}
	return paged("Aliases", entries, next), nil
}

type tag struct{ TagKey, TagValue string }

const maxTags = 50

// checkTags holds new tags to the rules, beside those that are there.
func checkTags(there map[string]string, tags []tag) error {
	all, seen := maps.Clone(there), map[string]bool{}
	if all == nil {
		all = map[string]string{}
	}
	for _, t := range tags {
		switch {
		case t.TagKey == "" || len(t.TagKey) > 128 || len(t.TagValue) > 256:
			return refuse("ValidationException", "1 validation error detected: a tag's key or value is too long, or the key is empty")
		case strings.HasPrefix(t.TagKey, "aws:"):
			return refuse("TagException", "Tag keys that begin with aws: are reserved")
		case seen[t.TagKey]:
			return refuse("TagException", "Duplicate tag keys")
		}
		seen[t.TagKey], all[t.TagKey] = true, t.TagValue
	}
	if len(all) > maxTags {
		return refuse("LimitExceededException", "A key has at most %d tags", maxTags)
	}
	return nil
}

func (k *key) tag(tags []tag) {
	for _, t := range tags {
		k.tags[t.TagKey] = t.TagValue
	}
}

func (s *Server) tagResource(in *struct {
	KeyID string `json:"KeyId"`
	Tags  []tag
}) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.byID(in.KeyID)
	if err != nil {
		return nil, err
	}
	if k.state == PendingDeletion {
		return nil, k.invalidState()
	}
	if err := checkTags(k.tags, in.Tags); err != nil {
		return nil, err
	}
	k.tag(in.Tags)
	return nil, nil
}

func (s *Server) listResourceTags(in *listKeyInput) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.byID(in.KeyID)
	if err != nil {
		return nil, err
	}
	page, next, err := s.page(slices.Sorted(maps.Keys(k.tags)), listInput{in.Limit, in.Marker}, 50, 50)
	if err != nil {
		return nil, err
	}
	entries := []tag{}
	for _, name := range page {
		entries = append(entries, tag{name, k.tags[name]})
	}
	return paged("Tags", entries, next), nil
}

// page cuts a sorted listing. The marker names the last item of the page
// before, so that a listing goes on even if that item is gone.
func (s *Server) page(names []string, in listInput, usual, most int) (page []string, next string, err error) {
	size := usual
	if in.Limit != nil {
		size = *in.Limit
	}
	if size < 1 || size > most {
		return nil, "", refuse("ValidationException", "1 validation error detected: Value at 'limit' failed to satisfy constraint: "+
			"Member must be between 1 and %d", most)
	}
	if s.opts.PageSize > 0 {
		size = min(size, s.opts.PageSize)
	}
	if in.Marker != "" {
		after, err := base64.StdEncoding.DecodeString(in.Marker)
		if err != nil {
			return nil, "", refuse("InvalidMarkerException", "The marker is not valid")
		}
		first, found := slices.BinarySearch(names, string(after))
		if found {
			first++
		}
		names = names[first:]
	}
	if len(names) <= size {
		return names, "", nil
	}
	return names[:size], base64.StdEncoding.EncodeToString([]byte(names[size-1])), nil
}

// paged is a listing's answer.
func paged(name string, entries any, next string) map[string]any {
	answer := map[string]any{name: entries, "Truncated": next != ""}
	if next != "" {
		answer["NextMarker"] = next
	}
	return answer
}
