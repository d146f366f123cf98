package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/node"
)

func (a *app) migrateCommand() *cobra.Command {
	var f storeFlags
	var status bool
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database of a server of your own up to date",
		Long: `Bring the database of a server of your own up to date with this program, apart
from starting a server, which does the same. --status only shows how far it is.

Migrations run forward. A database that a newer program has migrated is refused:
use that program, or restore a copy made before the upgrade.

With -f json the answer is {"database": ..., "version": N, "target": N}.
` + exitStatusHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			stores, err := f.stores()
			if err != nil {
				return err
			}
			return a.migrate(cmd.Context(), stores, status)
		},
	}
	f.add(cmd.Flags(), false)
	cmd.Flags().BoolVar(&status, "status", false, "change nothing")
	return cmd
}

func (a *app) migrate(ctx context.Context, stores node.Stores, status bool) error {
	schema, err := stores.Schema(ctx)
	if err != nil {
		return err
	}
	if !status {
		meta, err := stores.OpenMeta(ctx)
		if err != nil {
			return err
		}
		if err := meta.Close(); err != nil {
			return err
		}
		if schema.Version < schema.Target {
			a.say("Migrated from version %d to %d.", schema.Version, schema.Target)
		}
		schema.Version = schema.Target
	}
	if err := a.printSchema(schema); err != nil {
		return err
	}
	return schema.Check()
}

func (a *app) printSchema(s metastore.Schema) error {
	if a.format == "json" {
		return a.printJSON(struct {
			Database string `json:"database"`
			Version  int64  `json:"version"`
			Target   int64  `json:"target"`
		}{s.Where, s.Version, s.Target})
	}
	what := "up to date"
	switch {
	case s.Version == 0:
		what = "empty"
	case s.Version < s.Target:
		what = "older than this program"
	case s.Version > s.Target:
		what = "newer than this program"
	}
	return a.print("%s: version %d of %d, %s\n", s.Where, s.Version, s.Target, what)
}
