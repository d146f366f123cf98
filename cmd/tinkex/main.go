// Command tinkex manages Tinker checkpoints and serves them.
package main

import (
	"os"

	"github.com/tinkex/tinkex/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], cli.System()))
}
