// Package retention decides which checkpoints are worth keeping. It looks at
// nothing but its arguments: the SDK plans with it what a client deletes, the
// registry what the server does.
package retention

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Policy is checkpoint.Policy, whose documentation says what each rule keeps.
type Policy struct {
	KeepLast      int
	KeepEvery     int
	KeepWithin    time.Duration
	KeepDaily     int
	KeepWeekly    int
	Location      *time.Location
	IncludePublic bool
	IncludeLatest bool
}

// Validate reports a policy without any rule, or with one that is negative.
func (p Policy) Validate() error {
	rules := false
	for _, r := range []struct {
		name  string
		value int64
	}{
		{"KeepLast", int64(p.KeepLast)}, {"KeepEvery", int64(p.KeepEvery)}, {"KeepWithin", int64(p.KeepWithin)},
		{"KeepDaily", int64(p.KeepDaily)}, {"KeepWeekly", int64(p.KeepWeekly)},
	} {
		if r.value < 0 {
			return fmt.Errorf("policy: %s is negative", r.name)
		}
		rules = rules || r.value > 0
	}
	if !rules {
		return errors.New("policy: no rule says what to keep")
	}
	return nil
}

// Item is what a policy looks at.
type Item struct {
	Group  string // the run and type that it is judged among
	Name   string // unique in the group
	Public bool
	Time   time.Time
}

// Compare puts items in the order that plans have them in: by group, newest
// first, and those of one instant by name, the higher number first.
func Compare(a, b Item) int {
	return cmp.Or(strings.Compare(a.Group, b.Group), CompareAge(a, b))
}

// CompareAge puts the newest first, and those of one instant by name, the
// higher number first: of step-9 and step-10, the latter is the later one.
func CompareAge(a, b Item) int {
	return cmp.Or(b.Time.Compare(a.Time), -CompareNames(a.Name, b.Name), strings.Compare(a.Group, b.Group), strings.Compare(a.Name, b.Name))
}

// Kept is what a policy keeps, and why, in words.
type Kept[T any] struct {
	Of      T
	Reasons []string
}

// Plan applies a policy to a list, of which of says what there is to know. Both
// results are in Compare's order and hold what is in the list once.
func Plan[T any](p Policy, list []T, of func(T) Item, now time.Time) (keep []Kept[T], remove []T, err error) {
	if err := p.Validate(); err != nil {
		return nil, nil, err
	}
	type entry struct {
		Item
		of T
	}
	sorted := make([]entry, len(list))
	for i, v := range list {
		sorted[i] = entry{of(v), v}
	}
	slices.SortFunc(sorted, func(a, b entry) int { return Compare(a.Item, b.Item) })
	sorted = slices.CompactFunc(sorted, func(a, b entry) bool { return a.Group == b.Group && a.Name == b.Name })
	for len(sorted) > 0 {
		end := 1
		for end < len(sorted) && sorted[end].Group == sorted[0].Group {
			end++
		}
		j := p.judge(now)
		for i, e := range sorted[:end] {
			if why := j.reasons(i, e.Item); len(why) > 0 {
				keep = append(keep, Kept[T]{e.of, why})
			} else {
				remove = append(remove, e.of)
			}
		}
		sorted = sorted[end:]
	}
	return keep, remove, nil
}

// judge judges the items of one group, which come newest first.
type judge struct {
	Policy
	now         time.Time
	days, weeks buckets
}

func (p Policy) judge(now time.Time) *judge {
	place := p.Location
	if place == nil {
		place = time.UTC
	}
	return &judge{
		Policy: p, now: now,
		days: buckets{name: "keep-daily", n: p.KeepDaily, of: func(t time.Time) string { return t.In(place).Format(time.DateOnly) }},
		weeks: buckets{name: "keep-weekly", n: p.KeepWeekly, of: func(t time.Time) string {
			year, week := t.In(place).ISOWeek()
			return fmt.Sprintf("%d week %d", year, week)
		}},
	}
}

// reasons says why the i-th item is kept.
func (j *judge) reasons(i int, item Item) []string {
	var why []string
	if i == 0 && !j.IncludeLatest {
		why = append(why, "latest")
	}
	if item.Public && !j.IncludePublic {
		why = append(why, "public")
	}
	if i < j.KeepLast {
		why = append(why, fmt.Sprintf("keep-last %d of %d", i+1, j.KeepLast))
	}
	if j.KeepEvery > 0 {
		if number, ok := numberOf(item.Name); !ok {
			why = append(why, "keep-every: no number")
		} else if number%uint64(j.KeepEvery) == 0 {
			why = append(why, fmt.Sprintf("keep-every: %d", number))
		}
	}
	if j.KeepWithin > 0 && !item.Time.Before(j.now.Add(-j.KeepWithin)) {
		why = append(why, "keep-within")
	}
	why = append(why, j.days.reason(item.Time)...)
	return append(why, j.weeks.reason(item.Time)...)
}

// buckets keeps the first of each of n periods.
type buckets struct {
	name string
	n    int
	of   func(time.Time) string
	last string
}

func (b *buckets) reason(t time.Time) []string {
	if b.n == 0 {
		return nil
	}
	period := b.of(t)
	if period == b.last {
		return nil
	}
	b.n--
	b.last = period
	return []string{b.name + ": " + period}
}

// numberOf is what a name counts, if it ends in a number.
func numberOf(name string) (uint64, bool) {
	n, err := strconv.ParseUint(name[len(strings.TrimRight(name, "0123456789")):], 10, 64)
	return n, err == nil
}

// CompareNames compares as people count: step-9 comes before step-10.
func CompareNames(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na == "" || nb == "" {
			if a[0] != b[0] {
				return cmp.Compare(a[0], b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		ta, tb := strings.TrimLeft(na, "0"), strings.TrimLeft(nb, "0")
		if c := cmp.Or(cmp.Compare(len(ta), len(tb)), strings.Compare(ta, tb), cmp.Compare(len(na), len(nb))); c != 0 {
			return c
		}
		a, b = a[len(na):], b[len(nb):]
	}
	return cmp.Compare(len(a), len(b))
}

// digits returns the digits a string starts with.
func digits(s string) string { return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))] }

// String is the policy as the command's options spell it.
func (p Policy) String() string {
	var parts []string
	add := func(name string, n int) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", name, n))
		}
	}
	add("keep-last", p.KeepLast)
	add("keep-every", p.KeepEvery)
	if p.KeepWithin > 0 {
		parts = append(parts, "keep-within "+age(p.KeepWithin))
	}
	add("keep-daily", p.KeepDaily)
	add("keep-weekly", p.KeepWeekly)
	if p.Location != nil && p.Location != time.UTC {
		parts = append(parts, "time-zone "+p.Location.String())
	}
	if p.IncludePublic {
		parts = append(parts, "include-public")
	}
	if p.IncludeLatest {
		parts = append(parts, "include-latest")
	}
	return strings.Join(parts, ", ")
}

// age spells whole days as such.
func age(d time.Duration) string {
	const day = 24 * time.Hour
	if d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}
