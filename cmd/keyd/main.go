// Command keyd keeps a payment company's partner-encryption keys in hardware,
// rotates them, tells the partners, and opens their answers. `keyd serve` is
// the daemon; the other commands speak to it over its sockets.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], terminal{os.Stdin, os.Stdout, os.Stderr}))
}
