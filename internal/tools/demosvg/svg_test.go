package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	long := strings.Repeat("█", columns)
	got := parse("a \x1b[1mbold\x1b[0m\n\n\x1b[2;1mboth\x1b[22m" + "\n" + long + "x\n\n")
	want := [][]span{
		{{text: "a "}, {text: "bold", bold: true}}, nil, {{text: "both", bold: true, faint: true}},
		{{text: long}}, {{text: "x"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestSchedule(t *testing.T) {
	steps, total := schedule(parse("a\nb\n\n\x1b[1mc\x1b[0m\nd"))
	var lines []int
	for i, s := range steps {
		lines = append(lines, s.lines)
		if i > 0 && s.at <= steps[i-1].at {
			t.Errorf("step %d is not after the one before: %+v", i, steps)
		}
	}
	if !reflect.DeepEqual(lines, []int{1, 2, 4, 5}) || steps[2].at-steps[1].at < chapterAfter {
		t.Errorf("%+v", steps)
	}
	if last := steps[len(steps)-1].at; total-last != holdFor {
		t.Errorf("it ends %v after the last line, want %v", total-last, holdFor)
	}
}

// text returns what an SVG shows, line by line, and its title.
func text(t *testing.T, svg io.Reader) (lines []string, title string) {
	t.Helper()
	d := xml.NewDecoder(svg)
	var in []string
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return lines, title
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			if in = append(in, token.Name.Local); token.Name.Local == "text" {
				lines = append(lines, "")
			}
		case xml.EndElement:
			in = in[:len(in)-1]
		case xml.CharData:
			if len(in) == 0 {
				continue
			}
			switch in[len(in)-1] {
			case "text", "tspan":
				lines[len(lines)-1] += string(token)
			case "title":
				title += string(token)
			}
		}
	}
}

func TestDraw(t *testing.T) {
	var b bytes.Buffer
	draw(&b, parse("$ a\n  <b> & \x1b[1m\"c\"\x1b[0m\n\nd"))
	lines, title := text(t, &b)
	if !reflect.DeepEqual(lines, []string{"$ a", `  <b> & "c"`, "d"}) || title == "" {
		t.Errorf("%q shows %q", title, lines)
	}
}

// The recording in the README is one of the demo as it is now.
func TestRecordingIsOfThisDemo(t *testing.T) {
	f, err := os.Open("../../../docs/demo.svg")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, _ := text(t, f)
	shown := strings.Join(lines, "\n")
	source, err := os.ReadFile("../../cli/demo.go")
	if err != nil {
		t.Fatal(err)
	}
	chapters := regexp.MustCompile(`s\.heading\("([^"]+)"\)`).FindAllSubmatch(source, -1)
	if len(chapters) < 5 {
		t.Fatalf("%d chapters were found in demo.go", len(chapters))
	}
	for _, c := range chapters {
		if !strings.Contains(shown, "  "+string(c[1])) {
			t.Errorf("it lacks the chapter %q; run: go run ./internal/tools/demosvg docs/demo.svg", c[1])
		}
	}
	if !strings.Contains(shown, "$ tinkex demo") || !strings.Contains(shown, "That took ") {
		t.Errorf("it is not of a whole run:\n%s", shown)
	}
	if strings.Contains(shown, os.TempDir()+"/") {
		t.Error("it shows a directory of the machine that it was made on")
	}
}
