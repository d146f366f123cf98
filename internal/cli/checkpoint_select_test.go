package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
)

var now = time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)

func TestParseTime(t *testing.T) {
	for in, want := range map[string]string{
		"":                                "0001-01-01T00:00:00Z",
		"2026-01-31":                      "2026-01-31T00:00:00Z",
		" 2026-01-31 ":                    "2026-01-31T00:00:00Z",
		"2026-01-31T08:00":                "2026-01-31T08:00:00Z",
		"2026-01-31 08:00:30":             "2026-01-31T08:00:30Z",
		"2026-01-31T08:00:00Z":            "2026-01-31T08:00:00Z",
		"2026-01-31T08:00:00.5+02:00":     "2026-01-31T06:00:00.5Z",
		"2026-01-31 08:00 +0100":          "2026-01-31T07:00:00Z",
		"2026-01-31T08:00+01:00":          "2026-01-31T07:00:00Z",
		"2026-01-31 08:00 UTC":            "2026-01-31T08:00:00Z",
		"2026-01-31 Europe/Berlin":        "2026-01-30T23:00:00Z",
		"2026-07-31 08:00 Europe/Berlin":  "2026-07-31T06:00:00Z",
		"Sat, 31 Jan 2026 08:00:00 +0000": "2026-01-31T08:00:00Z",
		"@1769846400":                     "2026-01-31T08:00:00Z",
		"7d":                              "2026-06-08T12:00:00Z",
		"36h":                             "2026-06-14T00:00:00Z",
		"1d12h":                           "2026-06-14T00:00:00Z",
		"1.5h":                            "2026-06-15T10:30:00Z",
	} {
		got, err := parseTime("--before", in, now)
		if err != nil || got.UTC().Format(time.RFC3339Nano) != want {
			t.Errorf("%q is %v (%v), want %s", in, got.UTC(), err, want)
		}
	}
	for in, says := range map[string]string{
		"yesterday":                     "2026-01-31T08:00:00Z",
		"01/02/2026":                    "is not a time",
		"2026-02-30":                    "is not a time",
		"2026-01-31 08:00 Europe/Bern3": `time zone "Europe/Bern3"`,
		"2026-01-31 ../../etc/passwd":   "time zone",
		"7 days":                        "an age such as 36h or 7d",
		"3 days ago":                    "an age such as 36h or 7d",
		"7x":                            "an age such as",
		"@-1":                           "is not a time",
		"@99999999999999999999":         "is not a time",
		"-7d":                           "is not a time",
	} {
		if _, err := parseTime("--before", in, now); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "--before") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestParseAgeAndSize(t *testing.T) {
	for _, bad := range []string{"", "7", "d", "7D", "1h30", "400y", "1..5h", "h1"} {
		if d, err := parseAge("--expiring", bad); err == nil {
			t.Errorf("%q is %v", bad, d)
		}
	}
	for in, want := range map[string]int64{"": 0, "100": 100, "10MB": 10e6, "1.5GiB": 3 << 29, "1 kB": 1000} {
		if n, err := parseSize("--min-size", in); err != nil || n != want {
			t.Errorf("%q is %d (%v), want %d", in, n, err, want)
		}
	}
	for _, bad := range []string{"x", "-1", "10XB", "0", "99999999999999999999"} {
		if n, err := parseSize("--min-size", bad); err == nil {
			t.Errorf("%q is %d", bad, n)
		}
	}
}

func TestSelectingWronglyIsWrongUsage(t *testing.T) {
	t.Setenv("TINKER_API_KEY", "tml-test")
	t.Setenv("TINKER_BASE_URL", "http://127.0.0.1:1")
	const p = "tinker://run/weights/a"
	for stderr, args := range map[string][]string{
		"did you mean --before?":              {"list", "--befor", "7d"},
		"did you mean --keep-last?":           {"prune", "--keeplast", "3"},
		"did you mean --dry-run?":             {"prune", "--keep-last", "3", "--dryrun"},
		"did you mean --sort?":                {"list", "--srot", "size"},
		"did you mean --metadata?":            {"list", "--meta", "a=b"},
		"unknown shorthand flag: 'x'":         {"list", "-x"},
		"--public and --private contradict":   {"list", "--public", "--private"},
		"two names of one option":             {"list", "--run", "a", "--run-id", "b"},
		"--after 1d and --before 2d":          {"list", "--after", "1d", "--before", "2d"},
		"--min-size 2MB and --max-size 1MB":   {"list", "--min-size", "2MB", "--max-size", "1MB"},
		`--metadata: "a" is not of the form`:  {"list", "--metadata", "a"},
		`a cannot be both "1" and "2"`:        {"list", "--metadata", "a=1", "--metadata", "a=2"},
		`"[a" is not a pattern`:               {"list", "--name", "[a"},
		"use created, size, name or expires":  {"list", "--sort", "age"},
		"--paths and -f json":                 {"list", "--paths", "-f", "json"},
		`--expiring: "soon"`:                  {"list", "--expiring", "soon"},
		"say what to keep":                    {"prune", "--all", "-y"},
		"--keep-last: 0: expected at least 1": {"prune", "--keep-last", "0"},
		"--keep-daily: -2":                    {"prune", "--keep-daily", "-2"},
		`--keep-within: "3"`:                  {"prune", "--keep-within", "3"},
		"no time at all":                      {"prune", "--keep-within", "0d"},
		"--public and --private contradict e": {"delete", "--run", "a", "--public=false", "--private=false", "-y"},
		"--include-public and --private":      {"prune", "--keep-last", "1", "--include-public", "--private"},
		`--before: "0001-01-01T00:00:00Z" is`: {"delete", "--run", "a", "--before", "0001-01-01T00:00:00Z", "-y"},
		`--before: " " is no time at all`:     {"delete", "--run", "a", "--before", " ", "-y"},
		`--after: "0001-01-01" is no time`:    {"list", "--after", "0001-01-01"},
		"use --include-public to let it go":   {"prune", "--keep-last", "1", "--public"},
		"either --run or --all-runs":          {"delete", "--run", "a", "--all-runs", "--before", "1d"},
		"not both":                            {"delete", p, "--all-runs"},
		"delete every checkpoint you have":    {"delete", "--all-runs", "-y"},
		"or --all-runs":                       {"delete", "--before", "1d", "-y"},
		"either paths or -":                   {"delete", "-", p, "-y"},
		"--run is empty":                      {"prune", "--keep-last", "1", "--run", "", "-y"},
		"--run-id is empty":                   {"delete", "--run-id=", "--all-runs", "--name", "*", "-y"},
		"--type is empty":                     {"list", "--type", ""},
		"--name is empty":                     {"delete", "--run", "a", "--name", "", "-y"},
		"--before is empty":                   {"mirror", "--to", "x", "--before", ""},
		"--min-size is empty":                 {"list", "--min-size="},
		`--keep-within: ""`:                   {"prune", "--keep-last", "1", "--keep-within", "", "-y"},
		"use --yes to go ahead":               {"delete", "-"},
	} {
		run(t, append([]string{"checkpoint"}, args...)...).want(t, exitUsage, nil, []string{"tinkex: ", stderr})
	}
	in := Env{Stdin: strings.NewReader("# mine\n\n" + p + "\nnonsense\n")}
	tinkexWith(t, in, "checkpoint", "delete", "-", "-y").want(t, exitUsage, nil, []string{"line 4 of standard input", `"nonsense"`, "nothing was deleted"})
}

func TestNearest(t *testing.T) {
	words := []string{"before", "after", "min-size", "max-size", "run", "run-id"}
	for in, want := range map[string]string{
		"befroe": "before", "aftr": "after", "min-sizes": "min-size", "max": "max-size", "runid": "run-id", "rnu": "run", "bogus": "", "xy": "",
	} {
		if got := nearest(in, words); got != want {
			t.Errorf("nearest to %q is %q, want %q", in, got, want)
		}
	}
}

func TestRunLatest(t *testing.T) {
	w := newWorld(t, "a")
	tc, err := w.svc.CreateLoRATrainingClient(t.Context(), "tinkex/tiny", tinkex.LoRAOptions{Rank: 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tc.SaveState(t.Context(), "b", tinkex.SaveOptions{}).Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := decode[checkpointListJSON](t, run(t, "-f", "json", "checkpoint", "list", "--run", "latest"))
	if got.RunID != tc.RunID() || len(got.Checkpoints) != 1 || got.TotalCount != 1 {
		t.Errorf("the latest run is %s: %+v", tc.RunID(), got)
	}
	run(t, "checkpoint", "list", "--run", "latest", "--api-key", "tml-else").want(t, exitNotFound, nil, []string{"--run latest", "no training runs"})
}
