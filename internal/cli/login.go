package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/profile"
)

// defaultProfile is what login calls the first profile.
const defaultProfile = "default"

type loginFlags struct{ stdin, noCheck, noKeyring bool }

func (a *app) loginCommand() *cobra.Command {
	var f loginFlags
	cmd := &cobra.Command{
		Use:   "login [--profile NAME] [--base-url URL] [--api-key-stdin]",
		Short: "Store a key for a server, as a profile",
		Long: `Store the API key for a server under a name, and use it from then on. Log in to
several servers with a --profile each; 'tinkex profile use' changes between them, and
--profile or TINKEX_PROFILE do for one command.

The key is asked for without showing it, or read from standard input. It is checked
against the server before it is stored. It goes into the operating system's keyring
or, if there is none, into a file that only you may read; which one is said. A key is
only ever sent to the server it was stored for.

With -f json the answer is {"profile", "base_url", "key_in": "keyring" or "file",
"file", "checked"}.
` + exitStatusHelp,
		Example: `  tinkex login
  tinkex login --profile lab --base-url http://lab.example:8484
  pass show tinker | tinkex login --api-key-stdin`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.login(cmd.Context(), f) },
	}
	cmd.Flags().BoolVar(&f.stdin, "api-key-stdin", false, "read the key from standard input")
	cmd.Flags().BoolVar(&f.noCheck, "no-check", false, "do not ask the server whether it accepts the key")
	cmd.Flags().BoolVar(&f.noKeyring, "no-keyring", false, "store the key in the file in any case")
	return cmd
}

func (a *app) login(ctx context.Context, f loginFlags) error {
	if f.stdin && a.apiKey != "" {
		return usagef("--api-key-stdin and --api-key contradict each other; give the key once")
	}
	store, err := a.profiles()
	if err != nil {
		return err
	}
	p, err := a.profileToLogIn(store)
	if err != nil {
		return err
	}
	key, err := a.readKey(ctx, f, p)
	if err != nil {
		return err
	}
	if err := a.checkKey(ctx, p, key, !f.noCheck); err != nil {
		return err
	}
	where, why, err := store.Save(ctx, p, key, f.noKeyring)
	if err != nil {
		return fmt.Errorf("store the key: %w", err)
	}
	file := ""
	if where == profile.InFile {
		file = store.KeysFile()
	}
	if a.format == "json" {
		err = a.printJSON(struct {
			Profile string        `json:"profile"`
			BaseURL string        `json:"base_url"`
			KeyIn   profile.Place `json:"key_in"`
			File    string        `json:"file,omitempty"`
			Checked bool          `json:"checked"`
		}{p.Name, p.BaseURL, where, file, !f.noCheck})
	} else {
		a.sayLoggedIn(p, file, why, f)
	}
	a.warnOfEnvironment()
	return err
}

func (a *app) sayLoggedIn(p profile.Profile, file string, why error, f loginFlags) {
	checked := "the server accepts the key"
	if f.noCheck {
		checked = "the key was not checked"
	}
	a.say("Logged in to %s as profile %s; %s.", p.BaseURL, p.Name, checked)
	switch {
	case file == "":
		a.say("The key is in the keyring.")
	case why != nil:
		a.say("The key is in %s, which only you may read: %v.", file, why)
	default:
		a.say("The key is in %s, which only you may read.", file)
	}
	if u, err := url.Parse(p.BaseURL); err == nil && u.Scheme == "http" && !isLoopback(u.Hostname()) {
		a.say("Warning: %s is not https, so the key can be read on the way.", p.BaseURL)
	}
}

// warnOfEnvironment says that what was just stored is not what will be used.
func (a *app) warnOfEnvironment() {
	for _, name := range []string{fromKeyEnv, fromURLEnv} {
		if os.Getenv(name) != "" {
			a.say("Note: %s is set and goes before the profile in use; unset it, or name the profile with --profile.", name)
		}
	}
}

// profileToLogIn decides on the profile's name and server.
func (a *app) profileToLogIn(store *profile.Store) (profile.Profile, error) {
	_, current, err := store.List()
	if err != nil {
		return profile.Profile{}, err
	}
	p := profile.Profile{Name: a.profile}
	for _, name := range []string{os.Getenv(fromNameEnv), current, defaultProfile} {
		if p.Name == "" {
			p.Name = name
		}
	}
	if err := profile.ValidateName(p.Name); err != nil {
		return p, usagef("--profile: %v", err)
	}
	had, err := store.Get(p.Name)
	if err != nil && !errors.Is(err, profile.ErrUnknown) {
		return p, err
	}
	for _, u := range []string{a.baseURL, os.Getenv(fromURLEnv), had.BaseURL, tinkex.DefaultBaseURL} {
		if p.BaseURL == "" {
			p.BaseURL = strings.TrimRight(u, "/")
		}
	}
	if had.Name != "" && a.profile == "" && !profile.SameServer(had.BaseURL, p.BaseURL) {
		return p, usagef("profile %s is for %s; to log in to %s as well, give it a name of its own with --profile NAME", had.Name, had.BaseURL, p.BaseURL)
	}
	return p, a.checkURL(p)
}

// checkURL finds what is wrong with a profile's URL before a key is asked for.
func (a *app) checkURL(p profile.Profile) error {
	client, err := a.clientFor(p, "tml-to-come")
	if err != nil {
		return err
	}
	return client.Close()
}

func (a *app) clientFor(p profile.Profile, key string) (*tinkex.RestClient, error) {
	return tinkex.NewRestClient(tinkex.Options{APIKey: key, BaseURL: p.BaseURL, Timeout: a.timeout, MaxRetries: 1, Logger: a.logger()})
}

// checkKey refuses a key that is malformed or that the server does not accept.
func (a *app) checkKey(ctx context.Context, p profile.Profile, key string, ask bool) error {
	client, err := a.clientFor(p, key)
	if err != nil {
		return err
	}
	defer client.Close()
	if !ask {
		return nil
	}
	if _, err = client.ListTrainingRuns(ctx, tinkex.ListRunsOptions{Limit: 1}); err == nil || ctx.Err() != nil {
		return err
	}
	a.conn = connection{profile: sourced{value: p.Name}, baseURL: sourced{p.BaseURL, ofProfile(p.Name)}, key: sourced{key, "this login"}}
	if errors.Is(err, tinkex.ErrUnauthorized) || errors.Is(err, tinkex.ErrForbidden) {
		return fmt.Errorf("nothing was stored: %w", err)
	}
	return fmt.Errorf("nothing was stored, for the key could not be checked (--no-check stores it as it is): %w", err)
}

// readKey gets the key from a flag, from standard input or from the user.
func (a *app) readKey(ctx context.Context, f loginFlags, p profile.Profile) (string, error) {
	switch {
	case a.apiKey != "":
		return a.apiKey, nil
	case f.stdin:
		b, err := io.ReadAll(io.LimitReader(a.Stdin, 1<<16))
		if err != nil {
			return "", fmt.Errorf("read the key from standard input: %w", err)
		}
		if key := strings.TrimSpace(string(b)); key != "" {
			return key, nil
		}
		return "", usagef("--api-key-stdin: standard input was empty; expected the key")
	case !a.StdinTerminal:
		return "", usagef("there is no terminal to ask for the key on; use --api-key-stdin and give it on standard input")
	}
	fmt.Fprintf(a.Stderr, "API key for %s (not shown): ", p.BaseURL)
	key, err := a.readHidden(ctx)
	a.say("")
	switch {
	case err != nil:
		return "", err
	case key == "":
		return "", errors.New("no key was given; nothing was stored")
	}
	return key, nil
}

// readHidden reads a line from the terminal without showing it, until the
// context ends.
func (a *app) readHidden(ctx context.Context) (string, error) {
	read := func() (string, error) { return bufio.NewReader(a.Stdin).ReadString('\n') }
	if file, ok := a.Stdin.(*os.File); ok {
		fd := int(file.Fd())
		state, err := term.GetState(fd)
		if err != nil {
			return "", err
		}
		// Reading ends by itself or not at all; either way the terminal must show
		// again what is typed.
		defer func() { _ = term.Restore(fd, state) }()
		read = func() (string, error) {
			b, err := term.ReadPassword(fd)
			return string(b), err
		}
	}
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := read()
		answers <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case got := <-answers:
		if got.err != nil && !errors.Is(got.err, io.EOF) {
			return "", fmt.Errorf("read the key: %w", got.err)
		}
		return strings.TrimSpace(got.line), nil
	}
}

func (a *app) logoutCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "logout [--profile NAME | --all]",
		Short: "Remove a profile and its key",
		Long: `Remove the profile in use, or the one that --profile names, and its key from the
keyring or the file. The key itself stays valid: revoke it at the server.

With -f json the answer is {"removed": [names]}.
` + exitStatusHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.logout(cmd.Context(), all) },
	}
	cmd.Flags().BoolVar(&all, "all", false, "remove all profiles")
	return cmd
}

func (a *app) logout(ctx context.Context, all bool) error {
	if all && a.profile != "" {
		return usagef("--all and --profile contradict each other")
	}
	store, err := a.profiles()
	if err != nil {
		return err
	}
	list, current, err := store.List()
	if err != nil {
		return err
	}
	names := []string{}
	for _, p := range list {
		names = append(names, p.Name)
	}
	if !all {
		var c connection
		if _, err := a.chosenProfile(store, &c); err != nil {
			return err
		}
		if c.profile.value == "" && len(names) > 0 {
			return usagef("no profile is in use; say which to remove with --profile: %s", strings.Join(names, ", "))
		}
		if names = []string{c.profile.value}; c.profile.value == "" {
			names = []string{}
		}
	}
	if err := store.Remove(ctx, names...); err != nil {
		return err
	}
	if a.format == "json" {
		return a.printJSON(map[string][]string{"removed": names})
	}
	if len(names) == 0 {
		a.say("There is no profile to remove.")
		return nil
	}
	a.say("Removed %s and the key.", strings.Join(names, ", "))
	if names[0] == current && len(list) > 1 && !all {
		a.say("No profile is in use now; 'tinkex profile use NAME' puts one in use.")
	}
	return nil
}
