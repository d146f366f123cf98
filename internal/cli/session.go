package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
)

func (a *app) sessionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "session",
		Aliases: []string{"sessions"},
		Short:   "List and inspect sessions",
		Long:    "A session holds the training runs and samplers that one client created.\n" + exitStatusHelp,
	}
	var limit, offset int
	var watch watchFlag
	list := &cobra.Command{
		Use: "list", Short: "List sessions, newest first",
		Long: "List your sessions, newest first.\n" + watchHelp + "\nWith -f json the answer is {\"sessions\": [ids]}.\n" + exitStatusHelp,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 || offset < 0 {
				return usagef("--limit and --offset may not be negative; --limit 0 is all")
			}
			if err := watch.parse(); err != nil {
				return err
			}
			return a.sessionList(cmd.Context(), limit, offset, watch)
		},
	}
	list.Flags().IntVar(&limit, "limit", 20, "how many to show; 0 is all")
	list.Flags().IntVar(&offset, "offset", 0, "how many to skip")
	watch.add(list)
	info := &cobra.Command{
		Use: "info ID", Short: "Show what a session holds", Args: cobra.ExactArgs(1),
		Long: `Show what a session holds; latest is the newest.

With -f json the answer is {"session_id", "training_run_ids", "sampler_ids",
"user_metadata", "display_name"}; the last two are left out if there are none.
` + exitStatusHelp,
		RunE: func(cmd *cobra.Command, args []string) error { return a.sessionInfo(cmd.Context(), args[0]) },
	}
	cmd.AddCommand(list, info)
	return cmd
}

func (a *app) sessionList(ctx context.Context, limit, offset int, watch watchFlag) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	return a.show(ctx, watch, func(ctx context.Context) (shown, error) {
		ids, err := fetchSessions(ctx, client, limit, offset)
		return shown{ids, func(a *app) error { return a.printSessions(ids, offset) }}, err
	})
}

func fetchSessions(ctx context.Context, client *tinkex.RestClient, limit, offset int) ([]string, error) {
	ids := []string{}
	if limit > 0 {
		page, err := client.ListSessions(ctx, tinkex.ListOptions{Limit: limit, Offset: offset})
		return append(ids, page.Sessions...), err
	}
	skip := offset
	for id, err := range client.AllSessions(ctx, tinkex.PageOptions{}) {
		if err != nil {
			return ids, err
		}
		if skip > 0 {
			skip--
			continue
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func (a *app) printSessions(ids []string, offset int) error {
	if a.format == "json" {
		return a.printJSON(tinkex.SessionList{Sessions: ids})
	}
	if len(ids) == 0 {
		a.say("No sessions%s.", beyond(offset))
		return nil
	}
	return a.print("%s\n", strings.Join(ids, "\n"))
}

func (a *app) sessionInfo(ctx context.Context, id string) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	if id == latest {
		newest, err := client.ListSessions(ctx, tinkex.ListOptions{Limit: 1})
		if err != nil {
			return err
		}
		if len(newest.Sessions) == 0 {
			return fmt.Errorf("latest: you have no sessions: %w", tinkex.ErrNotFound)
		}
		id = newest.Sessions[0]
		a.say("latest is %s.", id)
	}
	s, err := client.GetSession(ctx, id)
	if err != nil {
		return err
	}
	if a.format == "json" {
		return a.printJSON(struct {
			SessionID string `json:"session_id"`
			tinkex.Session
		}{id, s})
	}
	rows := []string{"Session", id}
	if s.DisplayName != "" {
		rows = append(rows, "Name", s.DisplayName)
	}
	rows = append(rows, "Training runs", orNone(s.TrainingRunIDs), "Samplers", orNone(s.SamplerIDs))
	for _, k := range slices.Sorted(maps.Keys(s.UserMetadata)) {
		rows = append(rows, "Metadata "+k, s.UserMetadata[k])
	}
	return a.properties(rows...)
}

func orNone(ids []string) string {
	if len(ids) == 0 {
		return "none"
	}
	return strings.Join(ids, "\n")
}
