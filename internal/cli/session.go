package cli

import (
	"context"
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
	list := &cobra.Command{
		Use: "list", Short: "List sessions, newest first", Args: cobra.NoArgs,
		Long: "List your sessions, newest first.\n\nWith -f json the answer is {\"sessions\": [ids]}.\n" + exitStatusHelp,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 || offset < 0 {
				return usagef("--limit and --offset may not be negative; --limit 0 is all")
			}
			return a.sessionList(cmd.Context(), limit, offset)
		},
	}
	list.Flags().IntVar(&limit, "limit", 20, "how many to show; 0 is all")
	list.Flags().IntVar(&offset, "offset", 0, "how many to skip")
	info := &cobra.Command{
		Use: "info ID", Short: "Show what a session holds", Args: cobra.ExactArgs(1),
		Long: "Show what a session holds.\n" + exitStatusHelp,
		RunE: func(cmd *cobra.Command, args []string) error { return a.sessionInfo(cmd.Context(), args[0]) },
	}
	cmd.AddCommand(list, info)
	return cmd
}

func (a *app) sessionList(ctx context.Context, limit, offset int) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	ids := []string{}
	if limit > 0 {
		page, err := client.ListSessions(ctx, tinkex.ListOptions{Limit: limit, Offset: offset})
		if err != nil {
			return err
		}
		ids = append(ids, page.Sessions...)
	} else {
		skip := offset
		for id, err := range client.AllSessions(ctx, tinkex.PageOptions{}) {
			if err != nil {
				return err
			}
			if skip > 0 {
				skip--
				continue
			}
			ids = append(ids, id)
		}
	}
	if a.format == "json" {
		return a.printJSON(tinkex.SessionList{Sessions: ids})
	}
	if len(ids) == 0 {
		a.say("No sessions.")
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
