package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex/internal/profile"
)

func (a *app) profileCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "profile",
		Aliases: []string{"profiles"},
		Short:   "List, choose and show the profiles of 'tinkex login'",
		Long: `A profile is a server with the key for it, stored by 'tinkex login' under a name.

Of everything a command needs to know, a flag goes before the environment, that
before the profile, and that before the default; --profile is a flag, so the profile
it names goes before TINKER_BASE_URL and TINKER_API_KEY. A profile's key is never
sent to another server than the profile's.
` + exitStatusHelp,
	}
	cmd.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List the profiles", Args: cobra.NoArgs,
			Long: `List the profiles; the one in use has a star.

With -f json the answer is {"profiles": [{"name", "base_url", "key_in", "in_use"}]}.
` + exitStatusHelp,
			RunE: func(*cobra.Command, []string) error { return a.profileList() },
		},
		&cobra.Command{
			Use: "use NAME", Short: "Put a profile in use", Args: cobra.ExactArgs(1),
			Long: "Put a profile in use, for every command that does not name another.\n\nWith -f json the answer is {\"name\", \"base_url\", \"key_in\", \"in_use\"}.\n" + exitStatusHelp,
			RunE: func(cmd *cobra.Command, args []string) error { return a.profileUse(cmd.Context(), args[0]) },
		},
		&cobra.Command{
			Use: "show [NAME]", Short: "Show which server and key commands use, and why", Args: cobra.MaximumNArgs(1),
			Long: `Show which profile, server and key commands use, and where each comes from; or what
they would with --profile NAME. The key is never shown.

With -f json the answer is {"profile": {"value", "from"}, "base_url": {"value",
"from"}, "api_key": {"set", "from", "stored_in", "problem"}}.
` + exitStatusHelp,
			RunE: func(cmd *cobra.Command, args []string) error {
				if len(args) == 1 {
					if a.profile != "" && a.profile != args[0] {
						return usagef("--profile %s and %s are two profiles; name one", a.profile, args[0])
					}
					a.profile = args[0]
				}
				return a.profileShow(cmd.Context())
			},
		},
	)
	return cmd
}

type profileJSON struct {
	Name    string        `json:"name"`
	BaseURL string        `json:"base_url"`
	KeyIn   profile.Place `json:"key_in"`
	InUse   bool          `json:"in_use"`
}

func (a *app) profileList() error {
	store, err := a.profiles()
	if err != nil {
		return err
	}
	list, current, err := store.List()
	if err != nil {
		return err
	}
	out := []profileJSON{}
	for _, p := range list {
		out = append(out, profileJSON{p.Name, p.BaseURL, p.KeyIn, p.Name == current})
	}
	if a.format == "json" {
		return a.printJSON(map[string][]profileJSON{"profiles": out})
	}
	if len(out) == 0 {
		a.say("No profiles; 'tinkex login' makes one.")
		return nil
	}
	t := a.table("", "Profile", "Key in", "Server")
	for _, p := range out {
		star := " "
		if p.InUse {
			star = "*"
		}
		t.row(star, p.Name, string(p.KeyIn), p.BaseURL)
	}
	return t.render()
}

func (a *app) profileUse(ctx context.Context, name string) error {
	store, err := a.profiles()
	if err != nil {
		return err
	}
	p, err := store.Get(name)
	if errors.Is(err, profile.ErrUnknown) {
		return a.unknownProfile(store, sourced{name, "profile use"})
	}
	if err != nil {
		return err
	}
	if err := store.Use(ctx, name); err != nil {
		return err
	}
	if a.format == "json" {
		return a.printJSON(profileJSON{p.Name, p.BaseURL, p.KeyIn, true})
	}
	a.say("Using profile %s, %s.", p.Name, p.BaseURL)
	a.warnOfEnvironment()
	return nil
}

func (a *app) profileShow(ctx context.Context) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	if a.format == "json" {
		type from struct {
			Value string `json:"value"`
			From  string `json:"from"`
		}
		out := struct {
			Profile from `json:"profile"`
			BaseURL from `json:"base_url"`
			APIKey  struct {
				Set      bool          `json:"set"`
				From     string        `json:"from"`
				StoredIn profile.Place `json:"stored_in,omitempty"`
				Problem  string        `json:"problem,omitempty"`
			} `json:"api_key"`
		}{Profile: from{c.profile.value, c.profile.from}, BaseURL: from{c.baseURL.value, c.baseURL.from}}
		out.APIKey.Set, out.APIKey.From, out.APIKey.StoredIn = c.key.value != "", c.key.from, c.keyIn
		if c.keyErr != nil {
			out.APIKey.Problem = c.keyErr.Error()
		}
		return a.printJSON(out)
	}
	name, key := "none", "none"
	if c.profile.value != "" {
		name = fmt.Sprintf("%s (from %s)", c.profile.value, c.profile.from)
	}
	switch {
	case c.keyErr != nil:
		key = "none: " + c.keyErr.Error()
	case c.keyIn != "":
		key = fmt.Sprintf("set (from %s, in the %s)", c.key.from, c.keyIn)
	case c.key.value != "":
		key = fmt.Sprintf("set (from %s)", c.key.from)
	}
	return a.properties("Profile", name, "Server", fmt.Sprintf("%s (from %s)", c.baseURL.value, c.baseURL.from), "API key", key)
}
