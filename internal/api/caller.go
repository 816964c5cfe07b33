package api

import (
	"context"
	"fmt"
	"net"
	"os/user"
	"slices"
	"strconv"
	"syscall"

	"keyd/internal/audit"
)

// Role is what a caller may be.
type Role string

const (
	// RoleClient seals and opens for a partner.
	RoleClient Role = "client"
	// RoleCaller has keyd send requests to a partner.
	RoleCaller Role = "caller"
	// RoleOperator administers, and reads what an auditor reads.
	RoleOperator Role = "operator"
	// RoleAuditor reads.
	RoleAuditor Role = "auditor"
)

// AnyPartner in a rule stands for every partner.
const AnyPartner = "*"

// Rule gives a role to users and groups. A process is in a group if it is its
// own (the effective gid), or if the group database says so of its user.
type Rule struct {
	Role    Role
	Partner string // of a client or caller: the partner's name, or AnyPartner
	UIDs    []int
	GIDs    []int
}

func (r Rule) check() error {
	switch r.Role {
	case RoleClient, RoleCaller:
		if r.Partner == "" {
			return fmt.Errorf("api: a rule for the role %s names no partner", r.Role)
		}
	case RoleOperator, RoleAuditor:
		if r.Partner != "" {
			return fmt.Errorf("api: a rule for the role %s names the partner %q", r.Role, r.Partner)
		}
	default:
		return fmt.Errorf("api: a rule gives the role %q, which there is not", r.Role)
	}
	return nil
}

// peer is the process at the other end of a unix socket, as the kernel noted it
// when it connected.
type peer struct{ uid, gid, pid int }

type (
	peerKey struct{}
	connKey struct{} // of the connection itself
)

// withPeer asks for the peer's credentials once for each connection. A
// connection without them has no peer and so no role.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := conn.(*counted); ok {
		ctx = context.WithValue(ctx, connKey{}, c)
		conn = c.Conn
	}
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *syscall.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err != nil || failed != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, peer{uid: int(cred.Uid), gid: int(cred.Gid), pid: int(cred.Pid)})
}

// callers knows who has which role.
type callers struct {
	rules  []Rule
	names  *remembered[string]
	groups *remembered[[]int]
}

func newCallers(rules []Rule) *callers {
	return &callers{rules: rules, names: newRemembered(userName), groups: newRemembered(userGroups)}
}

// identify says who a peer is, as the audit log names it. The role is set when
// one was found for what is asked.
func (c *callers) identify(p peer, ok bool) audit.Actor {
	if !ok {
		return audit.Actor{UID: -1, GID: -1, User: "unknown"}
	}
	actor := audit.Actor{UID: p.uid, GID: p.gid, PID: p.pid, User: strconv.Itoa(p.uid)}
	if name := c.names.of(p.uid); name != "" {
		actor.User = name
	}
	return actor
}

// userName asks the user database; "" for a user that it does not know, as in a
// container.
func userName(uid int) string {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return ""
	}
	return u.Username
}

// userGroups asks the user database. A user that it does not know has no groups
// besides its own.
func userGroups(uid int) []int {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return nil
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil
	}
	var groups []int
	for _, id := range ids {
		if gid, err := strconv.Atoi(id); err == nil {
			groups = append(groups, gid)
		}
	}
	return groups
}

// role finds the first of the roles that the caller has for a partner. The
// group database, which may be slow or far away, is asked only if what the
// kernel says is not enough.
func (c *callers) role(actor audit.Actor, roles []Role, partner string) (Role, bool) {
	if actor.UID < 0 {
		return "", false
	}
	var byGroup bool // a rule could be met by a group
	for _, role := range roles {
		for i := range c.rules {
			rule := &c.rules[i]
			if !rule.covers(role, partner) {
				continue
			}
			if slices.Contains(rule.UIDs, actor.UID) || slices.Contains(rule.GIDs, actor.GID) {
				return role, true
			}
			byGroup = byGroup || len(rule.GIDs) > 0
		}
	}
	if !byGroup {
		return "", false
	}
	groups := c.groups.of(actor.UID)
	for _, role := range roles {
		for i := range c.rules {
			if rule := &c.rules[i]; rule.covers(role, partner) && slices.ContainsFunc(groups, func(gid int) bool { return slices.Contains(rule.GIDs, gid) }) {
				return role, true
			}
		}
	}
	return "", false
}

// covers reports whether the rule gives the role, and for the partner.
func (r *Rule) covers(role Role, partner string) bool {
	ofAll := role != RoleClient && role != RoleCaller
	return r.Role == role && (ofAll || r.Partner == AnyPartner || r.Partner == partner)
}
