package api

// Route is a line of the route table, for the tests that hold everything else
// against it.
type Route struct {
	Method, Pattern, Listener string
	Roles                     []Role
	Query                     []string
	MaxBody                   int64
}

// Routes is the route table.
func (s *Server) Routes() []Route {
	names := map[door]string{clientSocket: "client", adminSocket: "admin", monitorPort: "monitoring"}
	var all []Route
	for _, r := range s.routes() {
		all = append(all, Route{r.method, r.pattern, names[r.on], r.roles, r.query, r.maxBody})
	}
	return all
}

// Codes are the codes of the error table with their statuses.
func Codes() map[string][]int {
	codes := map[string][]int{internal.code: {internal.status}}
	for _, k := range kinds {
		codes[k.code] = append(codes[k.code], k.status)
	}
	return codes
}

// Known are the errors of the error table, with the code of each.
func Known() map[error]string {
	known := map[error]string{}
	for _, k := range kinds {
		known[k.err] = k.code
	}
	return known
}

// CodeOf is the code that an error is answered with.
func CodeOf(err error) string { return kindOf(err).code }

// Remembered is what asks the user database.
func Remembered(ask func(uid int) string) func(uid int) string { return newRemembered(ask).of }

// SetRemote changes how a partner is spoken to.
func (o *Opener) SetRemote(partner string, r Remote) { o.partners[partner].Remote = r }

// TakeTurns takes turns of that many calls with each of partners and returns how
// many there were.
func TakeTurns(each int, partners []string) (taken int) {
	t := newTurns(each)
	for _, p := range partners {
		for _, err := t.take(p); err == nil; _, err = t.take(p) {
			taken++
		}
	}
	return taken
}
