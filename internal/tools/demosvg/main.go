// Command demosvg runs "tinkex demo" and draws what it prints as an animated
// SVG. What a terminal would show is what the run printed; only the pauses are
// evened out, so that it can be read.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tinkex/tinkex/internal/cli"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demosvg FILE")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "demosvg:", err)
		os.Exit(1)
	}
}

func run(file string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	// The demo keeps its download in a directory of its own, so that what it
	// prints names no directory of this machine.
	dir, err := os.MkdirTemp("", "demosvg-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chdir(dir); err != nil {
		return err
	}
	defer func() { _ = os.Chdir(filepath.Dir(file)) }() // or dir could not be removed everywhere
	var out bytes.Buffer
	code := cli.Main([]string{"demo", "--dir", "models"}, cli.Env{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: os.Stderr, StdoutTerminal: true, Width: columns,
	})
	if code != 0 {
		return fmt.Errorf("tinkex demo ended with %d", code)
	}
	var svg bytes.Buffer
	draw(&svg, parse("$ tinkex demo --dir models\n"+out.String()))
	return os.WriteFile(file, svg.Bytes(), 0o644) //nolint:gosec // a document
}
