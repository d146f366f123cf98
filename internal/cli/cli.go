// Package cli is the tinkex command. Each command has a file of its own that
// parses, calls the SDK and prints.
//
// The contract that every command keeps: data goes to standard output, prose
// and progress to standard error; progress is drawn on terminals only; -f json
// is stable; the exit code says what happened (see exit.go).
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/term"

	"github.com/tinkex/tinkex"
)

// Env is the world outside of the process, so that tests can be another one.
type Env struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// StdinTerminal, StdoutTerminal and StderrTerminal say what is a terminal.
	StdinTerminal, StdoutTerminal, StderrTerminal bool
	// Width is the terminal's width in columns, 0 if there is none.
	Width int
	// Height is the terminal's height in lines, 0 if there is none.
	Height int
	// Size measures the terminal again. Nil: Width and Height do not change.
	Size func() (width, height int)
	// NotUTF8 says that the terminal does not take UTF-8.
	NotUTF8 bool
	// CompletionTimeout is how long a server has to answer while a command line
	// is being completed. 0 is 2 s.
	CompletionTimeout time.Duration
	// Context ends with the process's interruption. Nil is System's.
	Context context.Context
}

// System is the process's own environment.
func System() Env {
	isTerminal := func(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
	e := Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		StdinTerminal: isTerminal(os.Stdin), StdoutTerminal: isTerminal(os.Stdout), StderrTerminal: isTerminal(os.Stderr),
	}
	e.Size = func() (width, height int) {
		width, height, err := term.GetSize(int(os.Stdout.Fd()))
		if err != nil {
			return 0, 0
		}
		return width, height
	}
	e.Width, e.Height = e.Size()
	e.NotUTF8 = notUTF8(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG"))
	return e
}

// notUTF8 reports whether the locale, the first of those that is set, has
// another character set. Where none is set UTF-8 is assumed, which is what
// terminals are by default.
func notUTF8(locales ...string) bool {
	for _, l := range locales {
		if l == "" {
			continue
		}
		name, charset, named := strings.Cut(strings.ToLower(l), ".")
		if charset, _, _ = strings.Cut(charset, "@"); !named {
			charset = name // macOS has LC_CTYPE=UTF-8; C and de_DE are older than UTF-8
		}
		return charset != "utf-8" && charset != "utf8"
	}
	return false
}

// app is what the commands share: the environment and the global flags.
type app struct {
	Env
	apiKey  string
	baseURL string
	profile string
	timeout time.Duration
	format  string
	noColor bool
	verbose bool

	progress string // one of progressModes

	args     []string          // of the command line
	resolved map[string]string // words with latest in them, and what they stood for
	conn     connection        // what rest connected to

	tracing    trace.TracerProvider // nil: no traces
	endTracing func(code int, err error)
}

// Main runs the command line and returns the exit code.
func Main(args []string, env Env) int {
	ctx := env.Context
	if ctx == nil {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		// A second interrupt ends the process at once.
		context.AfterFunc(ctx, stop)
	}
	env.Context, env.Stdout = ctx, dataWriter{env.Stdout}
	a := &app{Env: env, args: args, resolved: map[string]string{}}
	root := a.root()
	root.SetArgs(append([]string{}, args...)) // of nil it would make the process's own
	err := root.ExecuteContext(context.WithValue(ctx, resolvedKey{}, a.resolved))
	code := exitCode(ctx, err)
	if a.endTracing != nil {
		a.endTracing(code, err)
	}
	if err != nil && !errors.Is(err, errSilent) && code != exitPipe {
		a.printError(ctx, err)
	}
	return code
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "tinkex",
		Short: "Keep, inspect, move and serve Tinker checkpoints",
		Long: `tinkex manages Tinker checkpoints, on the hosted service or on a server of your
own, and is that server.

Try it without an account:    tinkex demo
Start a server of your own:   tinkex serve
Store the key for a server:   tinkex login
See what you have:            tinkex checkpoint list
Find out what is wrong:       tinkex doctor`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if a.format != "table" && a.format != "json" {
				return usagef("--format: %q is not a format; use table or json", a.format)
			}
			if err := a.checkProgress(); err != nil {
				return err
			}
			if a.timeout < 0 {
				return usagef("--timeout: %v is negative", a.timeout)
			}
			return a.startTracing(cmd)
		},
	}
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	f := root.PersistentFlags()
	f.StringVar(&a.apiKey, "api-key", "", "API key; better kept by 'tinkex login' or in TINKER_API_KEY")
	f.StringVar(&a.baseURL, "base-url", "", "server to talk to (default TINKER_BASE_URL, then the profile's, then the hosted service)")
	f.StringVar(&a.profile, "profile", "", "profile of 'tinkex login' to use (default TINKEX_PROFILE, then the one in use)")
	f.DurationVar(&a.timeout, "timeout", 0, "time allowed for one attempt of a request (default 1m)")
	f.StringVarP(&a.format, "format", "f", "table", "output format: table or json")
	f.StringVar(&a.progress, "progress", progressAuto, "how to show progress: auto (bars on terminals), bar, lines (one now and then, for logs) or none")
	f.BoolVar(&a.noColor, "no-color", os.Getenv("NO_COLOR") != "", "no colours (also NO_COLOR)")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "log what is being done to standard error")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%v%s\nSee '%s --help'.", flagProblem(err), suggestFlag(cmd, err), cmd.CommandPath())
	})
	root.AddCommand(
		a.demoCommand(),
		a.serveCommand(),
		a.checkpointCommand(),
		a.runCommand(),
		a.sessionCommand(),
		a.retentionCommand(),
		a.loginCommand(),
		a.logoutCommand(),
		a.profileCommand(),
		a.doctorCommand(),
		a.keyCommand(),
		a.duCommand(),
		a.uiCommand(),
		a.fsckCommand(),
		a.gcCommand(),
		a.migrateCommand(),
		a.versionCommand(),
	)
	root.Version = tinkex.Version
	root.SetVersionTemplate(versionLine() + "\n")
	a.setUpCompletion(root)
	hardenHelp(root)
	hardenUsage(root)
	return root
}

// hardenUsage makes wrong arguments usage errors everywhere, and a missing or
// unknown subcommand one too instead of a successful help text.
func hardenUsage(cmd *cobra.Command) {
	if args := cmd.Args; args != nil {
		cmd.Args = func(cmd *cobra.Command, a []string) error {
			if err := args(cmd, a); err != nil {
				return usagef("%s\nUsage: %s", argsProblem(cmd, err), cmd.UseLine())
			}
			return nil
		}
	}
	if cmd.HasSubCommands() && cmd.Run == nil && cmd.RunE == nil {
		cmd.Args = cobra.ArbitraryArgs
		cmd.SuggestionsMinimumDistance = 2
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		}
	}
	for _, sub := range cmd.Commands() {
		hardenUsage(sub)
	}
}

func unknownCommand(cmd *cobra.Command, word string) error {
	msg := fmt.Sprintf("unknown command %q for %q", word, cmd.CommandPath())
	if s := cmd.SuggestionsFor(word); len(s) > 0 {
		msg += fmt.Sprintf("; did you mean %q?", s[0])
	}
	return usagef("%s\nSee '%s --help'.", msg, cmd.CommandPath())
}

// hardenHelp makes help about a command that does not exist a usage error
// instead of help about another one.
func hardenHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		if c.Name() == "help" {
			c.Args = func(_ *cobra.Command, args []string) error {
				about, left, err := root.Find(args)
				if err == nil && len(left) > 0 {
					err = unknownCommand(about, left[0])
				}
				return err
			}
		}
	}
}

// logger is what libraries log to: standard error with -v, nothing without.
func (a *app) logger() *slog.Logger {
	if !a.verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// retries is how often a command repeats a request that failed for a transient
// reason: a few seconds, for somebody is waiting.
const retries = 3

// say prints prose for people.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.Stderr, format+"\n", args...) }
