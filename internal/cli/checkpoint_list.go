package cli

import (
	"bufio"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/internal/checkpointjson"
)

type listFlags struct {
	limit, offset  int
	sort           string
	reverse, paths bool
	watch          watchFlag
	selectFlags
}

// checkpointListJSON is the stable form of checkpoint list -f json. It is
// written member by member; see listJSON.
type checkpointListJSON struct {
	RunID       string              `json:"run_id,omitempty"`
	Checkpoints []tinkex.Checkpoint `json:"checkpoints"`
	listTotals
}

// listTotals is what is known when a list has been gone through.
type listTotals struct {
	// TotalCount counts what there is before filters, limit and offset.
	TotalCount int `json:"total_count"`
	// MatchedCount counts what the filters leave, before limit and offset.
	MatchedCount int `json:"matched_count"`
	// ListedCount and ListedBytes are about what is listed.
	ListedCount int   `json:"listed_count"`
	ListedBytes int64 `json:"listed_bytes"`

	more bool // counting stopped when there was enough
}

// onePage is how many checkpoints may be asked for in one request.
const onePage = 1000

func (a *app) checkpointListCommand() *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List checkpoints, newest first",
		Long: `List your checkpoints, newest first, or those that the filters select. With
--limit 0 and without --sort they are printed as they come, however many there are.
` + selectionHelp + watchHelp + `
With -f json the answer is {"run_id", "checkpoints": [...], "total_count",
"matched_count", "listed_count", "listed_bytes"}: how many there are, how many the
filters leave, and how many of what size are listed. It is written as the
checkpoints come; if it does not end, the command failed. Each checkpoint is
{"checkpoint_id": "weights/NAME", "checkpoint_type": "training", "sampler" or
"external", "time", "tinker_path", "size_bytes", "public", "user_metadata",
"expires_at", "base_model"}. Times are RFC 3339 in UTC; what there is none of, or the
server does not tell, is left out. --paths prints nothing but
paths, one a line, for 'tinkex checkpoint delete -'.
` + exitStatusHelp,
		Example: `  tinkex checkpoint list --limit 0
  tinkex checkpoint list --run latest --type weights -f json
  tinkex checkpoint list --before 30d --min-size 1GB --sort size
  tinkex checkpoint list --expiring 36h --sort expires --limit 0
  tinkex checkpoint list --name 'step-*' --metadata purpose=test --paths --limit 0`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case f.limit < 0 || f.offset < 0:
				return usagef("--limit and --offset may not be negative; --limit 0 is all")
			case f.paths && a.format == "json":
				return usagef("--paths and -f json contradict each other; the JSON has the paths as tinker_path")
			case f.sort != "" && !slices.Contains(checkpoint.Orders(), checkpoint.Order(f.sort)):
				return usagef("--sort: %q is not an order; use created, size, name or expires", f.sort)
			}
			if err := f.parse(time.Now()); err != nil {
				return err
			}
			if err := f.watch.parse(); err != nil {
				return err
			}
			return a.checkpointList(cmd.Context(), &f)
		},
	}
	cmd.Flags().IntVar(&f.limit, "limit", 20, "how many to show; 0 is all")
	cmd.Flags().IntVar(&f.offset, "offset", 0, "how many to skip")
	cmd.Flags().StringVar(&f.sort, "sort", "", "order: created (newest first), size (largest first), name, or expires (soonest first)")
	cmd.Flags().BoolVarP(&f.reverse, "reverse", "r", false, "the other way round")
	cmd.Flags().BoolVar(&f.paths, "paths", false, "print paths only")
	f.watch.add(cmd)
	f.addFlags(cmd)
	return cmd
}

func (a *app) checkpointList(ctx context.Context, f *listFlags) error {
	client, err := a.rest()
	if err != nil {
		return err
	}
	defer client.Close()
	s, err := f.resolve(ctx, client)
	if err != nil {
		return err
	}
	if f.watch.every == 0 {
		var totals listTotals
		return a.printList(f, s.RunID, f.listed(ctx, client, s, a.format == "json", &totals), &totals)
	}
	return a.show(ctx, f.watch, func(ctx context.Context) (shown, error) {
		var totals listTotals
		list := []tinkex.Checkpoint{}
		for c, err := range f.listed(ctx, client, s, a.format == "json", &totals) {
			if err != nil {
				return shown{}, err
			}
			list = append(list, c)
		}
		data := checkpointListJSON{s.RunID, list, totals}
		return shown{data, func(a *app) error { return a.printList(f, s.RunID, known(list), &totals) }}, nil
	})
}

// known iterates over a list that is there already.
func known(list []tinkex.Checkpoint) iter.Seq2[tinkex.Checkpoint, error] {
	return func(yield func(tinkex.Checkpoint, error) bool) {
		for _, c := range list {
			if !yield(c, nil) {
				return
			}
		}
	}
}

func (a *app) printList(f *listFlags, runID string, list iter.Seq2[tinkex.Checkpoint, error], totals *listTotals) (err error) {
	switch {
	case a.format == "json":
		return a.listJSON(runID, list, totals)
	case f.paths:
		err = a.listPaths(list)
	default:
		err = a.listTable(list, totals)
	}
	if err != nil {
		return err
	}
	a.say("%s", summary(f, *totals))
	return nil
}

// summary says in words what was listed.
func summary(f *listFlags, t listTotals) string {
	if t.ListedCount == 0 {
		switch {
		case t.TotalCount == 0:
			return "No checkpoints."
		case t.MatchedCount == 0:
			return fmt.Sprintf("No checkpoints match, of %d.", t.TotalCount)
		}
		return fmt.Sprintf("No checkpoints after the first %d.", f.offset)
	}
	rest := t.MatchedCount - f.offset - t.ListedCount
	listed := plural(t.ListedCount, "checkpoint")
	switch {
	case t.more:
		listed += " and more"
	case rest > 0:
		listed = fmt.Sprintf("%d of %s", t.ListedCount, plural(t.MatchedCount, "checkpoint"))
	}
	if t.ListedBytes > 0 {
		listed += ", " + size(t.ListedBytes)
	}
	if rest > 0 {
		return listed + "; --limit 0 shows all."
	}
	return listed + "."
}

// listed iterates over what is to be listed and keeps totals, fetching no more
// pages than that needs. Unless the totals have to be complete, going through
// all pages just to count is not among it.
func (f *listFlags) listed(ctx context.Context, client *tinkex.RestClient, s checkpoint.Selection, complete bool, t *listTotals) iter.Seq2[tinkex.Checkpoint, error] {
	count := func(c tinkex.Checkpoint) {
		t.ListedCount++
		if c.SizeBytes != nil {
			t.ListedBytes += *c.SizeBytes
		}
	}
	switch {
	case f.sort != "" || f.reverse:
		return f.sorted(ctx, client, s, t, count)
	case s.RunID == "" && !s.Filters() && 0 < f.limit && f.limit <= onePage:
		return func(yield func(tinkex.Checkpoint, error) bool) {
			page, err := client.ListCheckpoints(ctx, tinkex.ListOptions{Limit: f.limit, Offset: f.offset})
			if err != nil {
				yield(tinkex.Checkpoint{}, err)
				return
			}
			t.TotalCount = f.offset + len(page.Checkpoints)
			if page.Cursor != nil {
				t.TotalCount = page.Cursor.TotalCount
			}
			t.MatchedCount = t.TotalCount
			for _, c := range page.Checkpoints {
				count(c)
				if !yield(c, nil) {
					return
				}
			}
		}
	}
	return func(yield func(tinkex.Checkpoint, error) bool) {
		for c, err := range s.Considered(ctx, client) {
			if err != nil {
				yield(c, err)
				return
			}
			t.TotalCount++
			if !s.Match(c) {
				continue
			}
			t.MatchedCount++
			switch {
			case t.MatchedCount <= f.offset:
			case f.limit == 0 || t.ListedCount < f.limit:
				count(c)
				if !yield(c, nil) {
					return
				}
			case !complete && s.RunID == "":
				t.more = true
				return
			}
		}
	}
}

// sorted has to see all before it can yield the first.
func (f *listFlags) sorted(ctx context.Context, client *tinkex.RestClient, s checkpoint.Selection, t *listTotals, count func(tinkex.Checkpoint)) iter.Seq2[tinkex.Checkpoint, error] {
	return func(yield func(tinkex.Checkpoint, error) bool) {
		var all []tinkex.Checkpoint
		for c, err := range s.Considered(ctx, client) {
			if err != nil {
				yield(c, err)
				return
			}
			t.TotalCount++
			if s.Match(c) {
				all = append(all, c)
			}
		}
		t.MatchedCount = len(all)
		checkpoint.Sort(all, checkpoint.Order(f.sort), f.reverse)
		all = all[min(f.offset, len(all)):]
		if f.limit > 0 {
			all = all[:min(f.limit, len(all))]
		}
		for _, c := range all {
			count(c)
			if !yield(c, nil) {
				return
			}
		}
	}
}

// listTable prints checkpoints as they come. Paths come last: they are long,
// and people copy them whole.
func (a *app) listTable(list iter.Seq2[tinkex.Checkpoint, error], totals *listTotals) error {
	t := a.table("Type", "Size", "Public", "Created", "Expires", "Path").droppable("Public", "Expires", "Type")
	for c, err := range list {
		if err == nil {
			t.row(kindOf(c), sizeOf(c.SizeBytes), yesNo(c.Public), ago(c.Time), expiresIn(c.ExpiresAt), c.TinkerPath)
			err = t.failed()
		}
		if err != nil {
			if totals.ListedCount > 0 {
				_ = t.render() // the error that ended the list is the one to report
			}
			return err
		}
	}
	if totals.ListedCount == 0 {
		return nil
	}
	return t.render()
}

func kindOf(c tinkex.Checkpoint) string {
	return strings.TrimSuffix(c.CheckpointType.Segment(), "_weights")
}

func (a *app) listPaths(list iter.Seq2[tinkex.Checkpoint, error]) error {
	out := bufio.NewWriter(a.Stdout)
	n := 0
	for c, err := range list {
		if err != nil {
			_ = out.Flush() // the error that ended the list is the one to report
			return err
		}
		if _, err := fmt.Fprintln(out, c.TinkerPath); err != nil {
			return err
		}
		if n++; n%flushRows == 0 {
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
	return out.Flush()
}

// listJSON writes a checkpointListJSON as printJSON would, but as it comes.
func (a *app) listJSON(runID string, list iter.Seq2[tinkex.Checkpoint, error], totals *listTotals) error {
	out := bufio.NewWriterSize(a.Stdout, 1<<16)
	indent := checkpointjson.Indent{Prefix: "    ", Lines: true}
	var item []byte
	begin := func() {
		fmt.Fprint(out, "{\n")
		if runID != "" {
			fmt.Fprintf(out, "  \"run_id\": %s,\n", checkpointjson.AppendString(nil, runID))
		}
		fmt.Fprint(out, "  \"checkpoints\": [")
	}
	n := 0
	for c, err := range list {
		if err != nil {
			if n > 0 {
				_ = out.Flush() // the error that ended the list is the one to report
			}
			return err
		}
		item = item[:0]
		if n > 0 {
			item = append(item, ',')
		}
		if item, err = checkpointjson.Append(append(item, "\n    "...), &c, indent); err != nil {
			return err
		}
		if n == 0 {
			begin()
		}
		if _, err := out.Write(item); err != nil {
			return err
		}
		n++
	}
	if n == 0 {
		begin()
	} else {
		fmt.Fprint(out, "\n  ")
	}
	fmt.Fprintf(out, "],\n  \"total_count\": %d,\n  \"matched_count\": %d,\n  \"listed_count\": %d,\n  \"listed_bytes\": %d\n}\n",
		totals.TotalCount, totals.MatchedCount, totals.ListedCount, totals.ListedBytes)
	return out.Flush()
}
