package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
)

const publicJSONHelp = `
With -f json the answer is {"tinker_path", "public"}.
`

func (a *app) checkpointPublishCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "publish PATH",
		Short: "Let everybody read a checkpoint",
		Long:  "Let everybody who knows its path inspect, download and resume from a checkpoint.\n" + publicJSONHelp + exitStatusHelp,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.setPublic(cmd.Context(), args[0], true)
		},
	}
}

func (a *app) checkpointUnpublishCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unpublish PATH",
		Short: "Make a checkpoint private again",
		Long:  "Make a published checkpoint private again.\n" + publicJSONHelp + exitStatusHelp,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.setPublic(cmd.Context(), args[0], false)
		},
	}
}

func (a *app) setPublic(ctx context.Context, arg string, public bool) error {
	path, err := tinkex.ParseTinkerPath(arg)
	if err != nil {
		return err
	}
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	if path, err = a.resolver(client).path(ctx, path); err != nil {
		return err
	}
	do, done := client.Publish, "Published"
	if !public {
		do, done = client.Unpublish, "Unpublished"
	}
	switch err := do(ctx, path); {
	case errors.Is(err, tinkex.ErrConflict):
		return fmt.Errorf("%w; there is nothing to do", err)
	case err != nil:
		return err
	}
	if a.format == "json" {
		return a.printJSON(struct {
			TinkerPath string `json:"tinker_path"`
			Public     bool   `json:"public"`
		}{path.String(), public})
	}
	a.say("%s %s.", done, path)
	return nil
}
