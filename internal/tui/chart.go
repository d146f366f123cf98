package tui

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// chart is the sizes of what is listed, by the time it was saved.
type chart struct {
	made   int // the rows that it is of
	points []point
}

type point struct {
	at    time.Time
	bytes int64
}

func (m *Model) openChart() { m.open(pageChart) }

// chartPoints are the rows' sizes, oldest first.
func (m *Model) chartPoints() []point {
	if m.chart.made == m.checkpoints.made && m.chart.points != nil {
		return m.chart.points
	}
	points := make([]point, 0, len(m.checkpoints.rows))
	for _, c := range m.checkpoints.rows {
		if c.SizeBytes != nil {
			points = append(points, point{c.Time, *c.SizeBytes})
		}
	}
	slices.SortFunc(points, func(a, b point) int { return a.at.Compare(b.at) })
	m.chart = chart{m.checkpoints.made, points}
	return points
}

// columnsOf spreads points over columns of equal time: what there is in all at
// the end of each, and the largest in each.
func columnsOf(points []point, n int) (cumulated, largest []int64) {
	cumulated, largest = make([]int64, n), make([]int64, n)
	if len(points) == 0 || n == 0 {
		return cumulated, largest
	}
	first := points[0].at
	length := points[len(points)-1].at.Sub(first)
	var sum int64
	next := 0 // the first column that is not filled
	for _, p := range points {
		i := n - 1
		if length > 0 {
			i = min(int(float64(p.at.Sub(first))/float64(length)*float64(n)), n-1)
		}
		for ; next < i; next++ {
			cumulated[next] = sum
		}
		sum += p.bytes
		cumulated[i], next = sum, i
		largest[i] = max(largest[i], p.bytes)
	}
	return cumulated, largest
}

// bars draws values as columns, from the top. What is not nothing can be seen.
func (p pen) bars(values []int64, height int) []string {
	levels := strings.Split(p.pick(" ,▁,▂,▃,▄,▅,▆,▇,█", " ,.,:,#"), ",")
	steps := len(levels) - 1
	top := slices.Max(values)
	lines := make([]string, height)
	for row := range lines {
		var b strings.Builder
		for _, v := range values {
			filled := 0
			if top > 0 {
				filled = int(float64(v) / float64(top) * float64(height*steps))
			}
			if v > 0 {
				filled = max(filled, 1)
			}
			b.WriteString(levels[min(max(filled-(height-1-row)*steps, 0), steps)])
		}
		lines[row] = b.String()
	}
	return lines
}

// chartLines are the page of sizes over time, as much of it as fits.
func (m *Model) chartLines(width, height int) []string {
	points := m.chartPoints()
	what := "All checkpoints that there are now"
	switch {
	case m.checkpoints.filter != "":
		what = "What is listed"
	case m.run != "":
		what = "The run's checkpoints that there are now"
	}
	if _, complete := m.source(); !complete {
		what += ", as far as they have been read"
	}
	if len(points) == 0 {
		return wrap(what+": none with a size.", width)
	}
	var sum int64
	for _, p := range points {
		sum += p.bytes
	}
	first, last := points[0].at, points[len(points)-1].at
	const axis = 10 // columns for the sizes beside the bars
	columns := max(width-axis-1, 1)
	cumulated, largest := columnsOf(points, columns)
	title := fmt.Sprintf("%s: %s of %s", what, count(len(points)), size(sum))
	if height < 4 {
		return append([]string{m.pen.clip(title, width)}, m.pen.bars(cumulated, 1)...)
	}
	lines := wrap(title, width)
	times := first.UTC().Format("2006-01-02 15:04")
	if end := last.UTC().Format("2006-01-02 15:04"); columns >= len(times)+len(end)+1 {
		times += strings.Repeat(" ", columns-len(times)-len(end)) + end
	}
	draw := func(title string, values []int64, height int) {
		lines = append(lines, m.pen.bold(m.pen.clip(title, width)))
		for i, bar := range m.pen.bars(values, height) {
			label := ""
			if i == 0 {
				label = size(slices.Max(values))
			}
			lines = append(lines, m.pen.fit(label, axis, true)+" "+m.pen.green(bar))
		}
	}
	// Titles, the line of times and an empty line between the two.
	room := height - len(lines) - 2
	if both := (room - 2) / 2; both >= 1 {
		draw("Cumulated", cumulated, both)
		lines = append(lines, "")
		each := "Each checkpoint"
		if len(points) > 1 && last.After(first) {
			each += fmt.Sprintf(", the largest in every %s", span(last.Sub(first)/time.Duration(columns)))
		}
		draw(each, largest, room-2-both)
	} else {
		draw("Cumulated", cumulated, max(room, 1))
	}
	return append(lines, strings.Repeat(" ", axis+1)+times)
}
