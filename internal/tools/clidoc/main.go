// Command clidoc writes the reference of the tinkex command to a file.
package main

import (
	"fmt"
	"os"

	"github.com/tinkex/tinkex/internal/cli"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: clidoc FILE")
		os.Exit(2)
	}
	if err := os.WriteFile(os.Args[1], []byte(cli.Reference()), 0o644); err != nil { //nolint:gosec // a document
		fmt.Fprintln(os.Stderr, "clidoc:", err)
		os.Exit(1)
	}
}
