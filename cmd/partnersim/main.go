// Command partnersim pretends to be keyd's partners on a local port, for demos
// and tests. It is never part of keyd and keeps nothing; docs/partnersim.md says
// what it pretends and how to make it fail.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}
