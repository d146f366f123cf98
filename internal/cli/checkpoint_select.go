package cli

import (
	"context"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // systems without a list of zones, such as Windows, know them too

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
)

const selectionHelp = `
Times are written 2026-01-31, 2026-01-31T08:00, "2026-01-31 08:00 +0100",
"2026-01-31 08:00 Europe/Berlin", 2026-01-31T08:00:00Z or @1769846400, and are UTC
unless they name a zone; or as an age: 90m, 36h, 7d, 2w, 1d12h. Sizes are bytes, or
10MB, 1.5GiB. Patterns have * for anything, ? for a character and [a-z] for one of
several. What a filter asks about and the server does not tell is not selected.
`

// selectFlags are the flags that select checkpoints.
type selectFlags struct {
	runID, run       string
	types            []string
	before, after    string
	minSize, maxSize string
	public, private  bool
	expiring         string
	name, baseModel  string
	metadata         []string

	selection checkpoint.Selection
	out       io.Writer // for prose
	set       *pflag.FlagSet
}

func (f *selectFlags) addFlags(cmd *cobra.Command) {
	f.out = stderrOf{cmd}
	flags := cmd.Flags()
	f.set = flags
	flags.StringVar(&f.run, "run", "", "only this training run's; latest is the newest run")
	flags.StringVar(&f.runID, "run-id", "", "the same as --run")
	flags.StringSliceVar(&f.types, "type", nil, "only this type: weights or sampler_weights")
	flags.StringVar(&f.before, "before", "", "only those saved before this time, or longer ago: 2026-01-31, 7d")
	flags.StringVar(&f.after, "after", "", "only those saved after this time, or not longer ago")
	flags.StringVar(&f.minSize, "min-size", "", "only those of at least this size, e.g. 100MB")
	flags.StringVar(&f.maxSize, "max-size", "", "only those of at most this size")
	flags.BoolVar(&f.public, "public", false, "only public ones")
	flags.BoolVar(&f.private, "private", false, "only private ones")
	flags.StringVar(&f.expiring, "expiring", "", "only those that expire within this time, e.g. 36h or 7d")
	flags.StringVar(&f.name, "name", "", "only those whose name matches this pattern, e.g. 'step-*'")
	flags.StringVar(&f.baseModel, "base-model", "", "only those of base models that match this pattern, e.g. 'Qwen/*'")
	flags.StringArrayVar(&f.metadata, "metadata", nil, "only those with this user metadata, as KEY=VALUE; may be repeated")
}

// parse checks the flags, without asking the server anything.
func (f *selectFlags) parse(now time.Time) error {
	s := &f.selection
	if err := f.refuseEmpty(); err != nil {
		return err
	}
	switch {
	case f.run != "" && f.runID != "" && f.run != f.runID:
		return usagef("--run %s and --run-id %s are two names of one option; give one", f.run, f.runID)
	case f.set.Changed("public") && f.set.Changed("private") && f.public == f.private:
		return usagef("--public and --private contradict each other; without either both are selected")
	}
	s.RunID = f.run + f.runID
	if f.run == f.runID {
		s.RunID = f.run
	}
	for _, v := range f.types {
		t, err := tinkex.ParseCheckpointType(v)
		if err != nil {
			return usagef("--type: %q is not a type; use weights or sampler_weights", v)
		}
		s.Types = append(s.Types, t)
	}
	var err error
	if s.Before, err = parseTime("--before", f.before, now); err != nil {
		return err
	}
	if s.After, err = parseTime("--after", f.after, now); err != nil {
		return err
	}
	// The zero time is no bound, and would select everything. Programs print it
	// for a time that was not set.
	for _, bound := range []struct {
		flag, given string
		at          time.Time
	}{{"before", f.before, s.Before}, {"after", f.after, s.After}} {
		if bound.given != "" && bound.at.IsZero() {
			return usagef("--%s: %q is no time at all; give one, or leave it out to select all", bound.flag, bound.given)
		}
	}
	if !s.Before.IsZero() && !s.After.IsZero() && !s.After.Before(s.Before) {
		return usagef("--after %s and --before %s contradict each other: nothing was saved after %s and before %s",
			f.after, f.before, s.After.UTC().Format(time.RFC3339), s.Before.UTC().Format(time.RFC3339))
	}
	if s.MinSize, err = parseSize("--min-size", f.minSize); err != nil {
		return err
	}
	if s.MaxSize, err = parseSize("--max-size", f.maxSize); err != nil {
		return err
	}
	if f.maxSize != "" && s.MinSize > s.MaxSize {
		return usagef("--min-size %s and --max-size %s contradict each other", f.minSize, f.maxSize)
	}
	switch { // --public=false is --private
	case f.set.Changed("public"):
		s.Public = &f.public
	case f.set.Changed("private"):
		public := !f.private
		s.Public = &public
	}
	if f.expiring != "" {
		within, err := parseAge("--expiring", f.expiring)
		if err != nil {
			return err
		}
		s.ExpiresBefore = now.Add(within)
	}
	s.Name, s.BaseModel = f.name, f.baseModel
	for _, kv := range f.metadata {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return usagef("--metadata: %q is not of the form KEY=VALUE", kv)
		}
		if s.Metadata == nil {
			s.Metadata = map[string]string{}
		}
		if had, ok := s.Metadata[k]; ok && had != v {
			return usagef("--metadata: %s cannot be both %q and %q", k, had, v)
		}
		s.Metadata[k] = v
	}
	if err := s.Validate(); err != nil { // what is left are patterns
		return usagef("%v", strings.TrimPrefix(err.Error(), "select: "))
	}
	return nil
}

// refuseEmpty refuses filters without a value. They come from variables that are
// not set, and to take them for no filter would select everything.
func (f *selectFlags) refuseEmpty() error {
	for _, name := range []string{
		"run", "run-id", "type", "before", "after", "min-size", "max-size", "expiring", "name", "base-model",
	} {
		flag := f.set.Lookup(name)
		if v := flag.Value.String(); flag.Changed && (v == "" || v == "[]") {
			return usagef("--%s is empty; give it a value, or leave it out to select all", name)
		}
	}
	return nil
}

// resolve returns the selection, with the run's id for --run latest.
func (f *selectFlags) resolve(ctx context.Context, client *tinkex.RestClient) (checkpoint.Selection, error) {
	s := f.selection
	var err error
	s.RunID, err = newResolver(client, f.out).run(ctx, s.RunID, "--run latest")
	return s, err
}

// stderrOf is a command's standard error, which it has only once it runs.
type stderrOf struct{ cmd *cobra.Command }

func (w stderrOf) Write(p []byte) (int, error) { return w.cmd.ErrOrStderr().Write(p) }

// Layouts of times: with a zone's offset or name, or in UTC.
var (
	zonedLayouts = []string{
		time.RFC3339, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05Z0700", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04Z07:00",
		"2006-01-02 15:04:05 -0700", "2006-01-02 15:04 -0700", "2006-01-02 15:04:05 -07:00", "2006-01-02 15:04 -07:00", time.RFC1123Z,
	}
	plainLayouts = []string{"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly}
)

// parseTime reads a time as people write it: in UTC unless it names a zone, or
// so long before now. Empty is the zero time.
func parseTime(flag, s string, now time.Time) (time.Time, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return time.Time{}, nil
	}
	if age, err := parseAge(flag, s); err == nil {
		return now.Add(-age), nil
	}
	if seconds, ok := strings.CutPrefix(s, "@"); ok {
		if n, err := strconv.ParseInt(seconds, 10, 64); err == nil && n >= 0 && n < 1<<40 {
			return time.Unix(n, 0).UTC(), nil
		}
	}
	for _, layout := range zonedLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	place, rest, zone := time.UTC, s, ""
	var unknown error
	if i := strings.LastIndexByte(s, ' '); i > 0 && strings.IndexFunc(s[i:], letter) >= 0 {
		rest, zone = strings.TrimSpace(s[:i]), s[i+1:]
		if strings.EqualFold(zone, "local") {
			zone = "Local"
		}
		if place, unknown = time.LoadLocation(zone); unknown != nil {
			place = time.UTC
		}
	}
	for _, layout := range plainLayouts {
		t, err := time.ParseInLocation(layout, rest, place)
		switch {
		case err != nil:
			continue
		case unknown != nil:
			return time.Time{}, usagef("%s: %q: the time zone %q is not known here; write an offset such as +0100, UTC, local, or a name such as Europe/Berlin", flag, s, zone)
		}
		return t, nil
	}
	return time.Time{}, usagef("%s: %q is not a time; write 2026-01-31, 2026-01-31T08:00, 2026-01-31T08:00:00Z, \"2026-01-31 08:00 Europe/Berlin\", or an age such as 36h or 7d", flag, s)
}

func letter(r rune) bool { return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' }

var (
	ageForm = regexp.MustCompile(`^([0-9]+(\.[0-9]+)?[a-z]+)+$`)
	agePart = regexp.MustCompile(`([0-9.]+)([a-z]+)`)
	units   = map[string]time.Duration{
		"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour, "y": 365 * 24 * time.Hour,
	}
)

// parseAge reads a span of time: 90m, 36h, 7d, 2w, 1d12h.
func parseAge(flag, s string) (time.Duration, error) {
	bad := usagef("%s: %q is not a span of time; write 90m, 36h, 7d, 2w or 1d12h", flag, s)
	if !ageForm.MatchString(s) {
		return 0, bad
	}
	var sum float64
	for _, part := range agePart.FindAllStringSubmatch(s, -1) {
		n, err := strconv.ParseFloat(part[1], 64)
		unit, ok := units[part[2]]
		if err != nil || !ok {
			return 0, bad
		}
		sum += n * float64(unit)
	}
	if sum >= math.MaxInt64 {
		return 0, usagef("%s: %q is more than 290 years", flag, s)
	}
	return time.Duration(math.Round(sum)), nil
}

// parseSize reads a size in bytes. Empty is 0.
func parseSize(flag, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(s)
	if err != nil || n > math.MaxInt64 || n == 0 {
		return 0, usagef("%s: %q is not a size; write bytes, or 10MB or 1.5GiB", flag, s)
	}
	return int64(n), nil
}
