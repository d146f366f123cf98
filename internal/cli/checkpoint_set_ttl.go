package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
)

func (a *app) checkpointSetTTLCommand() *cobra.Command {
	var ttl string
	var remove bool
	cmd := &cobra.Command{
		Use:   "set-ttl PATH (--ttl SECONDS | --remove)",
		Short: "Set or remove when a checkpoint expires",
		Long: `Set when a checkpoint expires, counted from now, or have it never expire.

With -f json the answer is {"tinker_path", "ttl_seconds"}; null is never.
` + exitStatusHelp,
		Example: "  tinkex checkpoint set-ttl tinker://RUN/weights/NAME --ttl 86400\n  tinkex checkpoint set-ttl tinker://RUN/weights/NAME --ttl 7d",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := tinkex.ParseTinkerPath(args[0])
			if err != nil {
				return err
			}
			if (ttl == "") == !remove {
				return usagef("give either --ttl SECONDS or --remove")
			}
			if remove {
				return a.setTTL(cmd.Context(), path, nil)
			}
			d, err := parseTTL(ttl)
			if err != nil {
				return err
			}
			return a.setTTL(cmd.Context(), path, &d)
		},
	}
	cmd.Flags().StringVar(&ttl, "ttl", "", "time to live in seconds, or with a unit: 90m, 24h, 7d")
	cmd.Flags().BoolVar(&remove, "remove", false, "never expire")
	return cmd
}

func parseTTL(s string) (time.Duration, error) {
	d, err := parseAge("--ttl", s)
	if n, numErr := strconv.ParseInt(s, 10, 64); numErr == nil {
		d, err = time.Duration(n)*time.Second, nil
		if n > int64(time.Duration(1<<63-1)/time.Second) {
			d = -1
		}
	}
	if err != nil || d < time.Second || d%time.Second != 0 {
		return 0, usagef("--ttl: %q is not a time to live; write whole seconds, at least 1, or a span such as 90m, 24h or 7d", s)
	}
	return d, nil
}

// span shows a time to live as parseTTL reads it.
func span(d time.Duration) string {
	var s strings.Builder
	for _, u := range []struct {
		name string
		unit time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}} {
		if n := d / u.unit; n > 0 {
			fmt.Fprintf(&s, "%d%s", n, u.name)
			d %= u.unit
		}
	}
	return s.String()
}

func (a *app) setTTL(ctx context.Context, path tinkex.TinkerPath, ttl *time.Duration) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	if path, err = a.resolver(client).path(ctx, path); err != nil {
		return err
	}
	if ttl == nil {
		err = client.RemoveTTL(ctx, path)
	} else {
		err = client.SetTTL(ctx, path, *ttl)
	}
	if err != nil {
		return err
	}
	if a.format == "json" {
		var seconds *int64
		if ttl != nil {
			n := int64(ttl.Seconds())
			seconds = &n
		}
		return a.printJSON(struct {
			TinkerPath string `json:"tinker_path"`
			TTLSeconds *int64 `json:"ttl_seconds"`
		}{path.String(), seconds})
	}
	if ttl == nil {
		a.say("%s never expires.", path)
	} else {
		a.say("%s expires in %s, at %s.", path, span(*ttl), time.Now().Add(*ttl).UTC().Format(time.RFC3339))
	}
	return nil
}
