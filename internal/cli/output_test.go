package cli

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestTableFitsTheTerminal(t *testing.T) {
	const id = "tinker://11111111-2222-4333-8444-555555555555:train:0/sampler_weights/step-1"
	for name, tc := range map[string]struct {
		width int
		want  string
	}{
		"no terminal": {0, "Size    Public   Path\n10 kB   no       " + id + "\n"},
		"wide":        {200, "Size    Public   Path\n10 kB   no       " + id + "\n"},
		"just wide":   {17 + len(id), "Size    Public   Path\n10 kB   no       " + id + "\n"},
		"narrower":    {16 + len(id), "Size    Path\n10 kB   " + id + "\n"},
		"just narrow": {1 + len(id), "Size    Public\n Path\n10 kB   no\n " + id + "\n"},
		"full":        {len(id), "Size    Public\nPath\n10 kB   no\n" + id + "\n"},
		"narrow":      {80, "Size    Public\n  Path\n10 kB   no\n  " + id + "\n"},
		"very narrow": {10, "Size\n  Path\n10 kB\n  " + id + "\n"},
		"too narrow":  {2, "Size\n  Path\n10 kB\n  " + id + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			a := &app{Env: Env{Stdout: &out, StdoutTerminal: tc.width > 0, Width: tc.width}, noColor: true}
			table := a.table("Size", "Public", "Path").droppable("Public")
			table.row("10 kB", "no", id)
			if err := table.render(); err != nil || out.String() != tc.want {
				t.Errorf("%v\n%s\nwant\n%s", err, out.String(), tc.want)
			}
		})
	}
}

// One row that is too wide does not have all others folded with it.
func TestOneWideRow(t *testing.T) {
	table := func(rows, wide int) string {
		var out bytes.Buffer
		a := &app{Env: Env{Stdout: &out, StdoutTerminal: true, Width: 30}, noColor: true}
		table := a.table("Size", "Public", "Path").droppable("Public")
		for i := range rows {
			path := fmt.Sprintf("tinker://r/%d", i)
			if i < wide {
				path += "-of-a-long-name"
			}
			table.row("1 B", "no", path)
		}
		if err := table.render(); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	want := "Size   Public   Path\n1 B    no\n  tinker://r/0-of-a-long-name\n"
	for i := 1; i < 5; i++ {
		want += fmt.Sprintf("1 B    no       tinker://r/%d\n", i)
	}
	if got := table(5, 1); got != want {
		t.Errorf("one of five:\n%s\nwant\n%s", got, want)
	}
	for _, most := range [][2]int{{5, 2}, {4, 1}, {1, 1}} {
		if got := table(most[0], most[1]); strings.Count(got, "\n") != 2*most[0]+2 {
			t.Errorf("%d of %d:\n%s", most[1], most[0], got)
		}
	}
	// Nor one that comes after the sample.
	var out bytes.Buffer
	a := &app{Env: Env{Stdout: &out, StdoutTerminal: true, Width: 20}, noColor: true}
	long := a.table("N", "Id")
	for range tableSample {
		long.row("1", "id")
	}
	long.row("2", "an-id-of-18-bytes-")
	if err := long.render(); err != nil || !strings.HasSuffix(out.String(), "1   id\n2\n  an-id-of-18-bytes-\n") {
		t.Errorf("%v, it ends in %q", err, out.String()[out.Len()-60:])
	}
}

func TestPropertiesKeepPathsWhole(t *testing.T) {
	const id = "tinker://11111111-2222-4333-8444-555555555555:train:0/sampler_weights/step-1200"
	for name, tc := range map[string]struct {
		width int
		want  string
	}{
		"no terminal": {0, "Path    " + id + "\nWords   a few words that may be cut " + id + "\n"},
		"wide":        {200, "Path    " + id + "\nWords   a few words that may be cut " + id + "\n"},
		"just fits":   {8 + len(id), "Path    " + id + "\nWords   a few words that may be cut " + id + "\n"},
		"narrow":      {2 + len(id), "Path\n  " + id + "\nWords   a few words that may be cut " + id + "\n"},
		"narrower":    {1 + len(id), "Path\n " + id + "\nWords   a few words that may be cut " + id + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			a := &app{Env: Env{Stdout: &out, StdoutTerminal: tc.width > 0, Width: tc.width}, noColor: true}
			if err := a.properties("Path", id, "Words", "a few words that may be cut "+id); err != nil || out.String() != tc.want {
				t.Errorf("%v\n%s\nwant\n%s", err, out.String(), tc.want)
			}
		})
	}
}

func TestLongTablesArePrintedAsTheyCome(t *testing.T) {
	var out bytes.Buffer
	a := &app{Env: Env{Stdout: &out}}
	table := a.table("N", "Id")
	for i := range tableSample + flushRows + 1 {
		table.row(fmt.Sprint(i), "id")
		if printed, want := strings.Count(out.String(), "\n"), i+1 >= tableSample; want != (printed > tableSample) {
			t.Fatalf("after %d rows %d lines were printed", i+1, printed)
		}
	}
	if err := table.render(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != tableSample+flushRows+2 || lines[0] != "N     Id" || lines[1] != "0     id" || lines[len(lines)-1] != "1100   id" {
		t.Errorf("%d lines, %q, %q, %q", len(lines), lines[0], lines[1], lines[len(lines)-1])
	}
}

// broken is a pipe that nobody reads any more.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestTablesEndWithTheirReader(t *testing.T) {
	table := (&app{Env: Env{Stdout: broken{}}}).table("N", "Id")
	rows := 0
	for ; table.failed() == nil && rows < 10*tableSample; rows++ {
		table.row("1", "2")
	}
	if rows > tableSample || table.render() == nil {
		t.Errorf("%d rows went into a broken pipe: %v", rows, table.err)
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string][2]string{
		"plain":          {"plain", "plain"},
		"schön":          {"schön", `sch\u00f6n`},
		"a\x1b[31mred":   {`a\x1b[31mred`, `a\x1b[31mred`},
		"a\nb\tc":        {`a\nb\tc`, `a\nb\tc`},
		"\u202egnorw":    {`\u202egnorw`, `\u202egnorw`},
		"bad\xffutf":     {`bad\ufffdutf`, `bad\ufffdutf`},
		"it's \"quote\"": {"it's \"quote\"", "it's \"quote\""},
	} {
		for i, not := range []bool{false, true} {
			a := &app{Env: Env{StdoutTerminal: true, NotUTF8: not}}
			if got := a.printable(in); got != want[i] {
				t.Errorf("%q, not UTF-8 %t: %q, want %q", in, not, got, want[i])
			}
		}
	}
	for _, tc := range []struct {
		locales []string
		want    bool
	}{
		{[]string{"", "", "en_US.UTF-8"}, false},
		{[]string{"", "", "de_DE.utf8@euro"}, false},
		{[]string{"", "de_DE.ISO-8859-1", "en_US.UTF-8"}, true},
		{[]string{"C.UTF-8", "", "de_DE.ISO-8859-1"}, false},
		{[]string{"", "", "C"}, true},
		{[]string{"POSIX", "", "en_US.UTF-8"}, true},
		{[]string{"", "UTF-8", ""}, false},
		{[]string{"", "", ""}, false},
	} {
		if got := notUTF8(tc.locales...); got != tc.want {
			t.Errorf("%q: %t", tc.locales, got)
		}
	}
}

func TestAgo(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct {
		at   time.Duration
		want string
	}{
		{-36 * time.Hour, "1 day ago"},
		{-time.Minute - time.Second, "1 minute ago"},
		// Set a moment ago to a week, a day and an hour.
		{7*24*time.Hour - 5*time.Second, "1 week from now"},
		{24*time.Hour - 5*time.Second, "1 day from now"},
		{time.Hour - 5*time.Second, "1 hour from now"},
		{7*24*time.Hour - time.Hour, "6 days from now"},
		{10*time.Minute - 5*time.Second, "9 minutes from now"},
	} {
		if got := ago(now.Add(tc.at)); got != tc.want {
			t.Errorf("%v from now is %q, want %q", tc.at, got, tc.want)
		}
	}
	if got := ago(time.Time{}); got != "-" {
		t.Errorf("no time is %q", got)
	}
}
