package main

import (
	"errors"
	"io/fs"
	"strconv"

	"keyd/internal/api"
)

func (s socketConfig) socket() (api.Socket, error) {
	mode, err := strconv.ParseUint(s.Mode, 8, 32)
	if err != nil {
		return api.Socket{}, err
	}
	gid := 0
	if s.Group != "" {
		if gid, err = groupID(s.Group); err != nil {
			return api.Socket{}, err
		}
	}
	return api.Socket{Path: s.Path, Mode: fs.FileMode(mode), GID: gid}, nil
}

// grants are what a client may be allowed.
var grants = map[string]api.Role{"crypt": api.RoleClient, "call": api.RoleCaller}

func (c clientConfig) grants() []string {
	if len(c.May) == 0 {
		return []string{"crypt"}
	}
	return c.May
}

// rules turns the names of the config into numbers.
func (c rolesConfig) rules() ([]api.Rule, error) {
	var rules []api.Rule
	var problems []error
	add := func(role api.Role, partner string, who whoConfig) {
		rule := api.Rule{Role: role, Partner: partner}
		for _, name := range who.Users {
			id, err := userID(name)
			rule.UIDs, problems = append(rule.UIDs, id), append(problems, err)
		}
		for _, name := range who.Groups {
			id, err := groupID(name)
			rule.GIDs, problems = append(rule.GIDs, id), append(problems, err)
		}
		rules = append(rules, rule)
	}
	add(api.RoleOperator, "", c.Operator)
	add(api.RoleAuditor, "", c.Auditor)
	for _, client := range c.Clients {
		for _, grant := range client.grants() {
			add(grants[grant], client.Partner, client.whoConfig)
		}
	}
	return rules, errors.Join(problems...)
}
