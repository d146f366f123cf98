package cli

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/tui"
)

func (a *app) uiCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "ui",
		Short: "Browse checkpoints in the terminal",
		Long: `Browse runs and checkpoints in the terminal: filter and sort them, look at one's
details and at sizes over time, mark several, and download, delete or publish
them or set when they expire. ? shows the keys.

It needs a terminal. Everything that it does, other commands do without one.
` + exitStatusHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.ui(cmd.Context(), dir) },
	}
	cmd.Flags().StringVarP(&dir, "output", "o", ".", "directory that downloads are offered to go to")
	return cmd
}

func (a *app) ui(ctx context.Context, dir string) error {
	switch {
	case a.format == "json":
		return usagef("ui has no JSON; 'tinkex checkpoint list -f json' has")
	case !a.StdinTerminal || !a.StdoutTerminal:
		return usagef("ui needs a terminal for its input and its output; 'tinkex checkpoint list' needs none")
	}
	if a.StderrTerminal {
		a.verbose = false // the log would be written across the screen
	}
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	return tui.Run(ctx, a.uiOptions(client, dir), a.Stdin, a.screen())
}

func (a *app) uiOptions(client *tinkex.RestClient, dir string) tui.Options {
	dumb := dumbTerminal(runtime.GOOS, os.Getenv("TERM"))
	return tui.Options{
		Client: client, Dir: dir, Text: a.printable, Logger: a.logger(),
		Server: strings.TrimSuffix(strings.TrimPrefix(client.String(), "tinkex.RestClient("), ")"),
		Color:  a.colours() && !dumb, ASCII: a.NotUTF8 || dumb, Dumb: dumb,
		ParseTTL: func(s string) (time.Duration, error) {
			d, err := parseTTL(s)
			if err != nil {
				err = errors.New(strings.TrimPrefix(err.Error(), "--ttl: "))
			}
			return d, err
		},
		Describe: func(ctx context.Context, path tinkex.TinkerPath) (tui.Description, error) {
			info, weights, err := readCheckpointInfo(ctx, client, path)
			if err != nil {
				return tui.Description{}, err
			}
			d := tui.Description{Properties: info.rows(path, weights)}
			for _, f := range info.Files {
				d.Files = append(d.Files, tui.DescribedFile{Name: f.Name, Size: exactSize(&f.Size), SHA256: f.SHA256})
			}
			return d, nil
		},
	}
}

// dumbTerminal reports whether the terminal cannot move its cursor. Windows'
// own needs no TERM to be able to.
func dumbTerminal(goos, name string) bool {
	return name == "dumb" || name == "" && goos != "windows"
}
