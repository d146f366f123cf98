package telemetry_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tinkex/tinkex/internal/telemetry"
)

// The guide's table has every metric with its labels, and no other.
func TestGuide(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../../docs/guides/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	row := regexp.MustCompile("(?m)^\\| `(tinkex_[a-z_]+)` \\| (counter|gauge|histogram) \\|([^|]*)\\|")
	for _, m := range row.FindAllStringSubmatch(string(guide), -1) {
		labels := strings.FieldsFunc(m[3], func(r rune) bool { return strings.ContainsRune("`, ", r) })
		documented = append(documented, m[1]+" "+strings.Join(labels, ","))
		if strings.HasSuffix(m[1], "_total") != (m[2] == "counter") {
			t.Errorf("%s is said to be a %s", m[1], m[2])
		}
	}
	m := telemetry.New(telemetry.Options{})
	m.Watch(telemetry.Sources{})
	defer m.Close()
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		for _, c := range m.Own() {
			c.Describe(descs)
		}
	}()
	var registered []string
	desc := regexp.MustCompile(`fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`)
	for d := range descs {
		found := desc.FindStringSubmatch(d.String())
		if found == nil {
			t.Fatalf("%s", d)
		}
		registered = append(registered, found[1]+" "+found[2])
	}
	if slices.Sort(documented); len(documented) < 30 || !slices.Equal(documented, slices.Sorted(slices.Values(registered))) {
		t.Errorf("the guide has\n%s\nthe registry\n%s", strings.Join(documented, "\n"), strings.Join(slices.Sorted(slices.Values(registered)), "\n"))
	}
	// What the examples ask for is there too.
	for _, name := range regexp.MustCompile(`tinkex_[a-z_]+`).FindAllString(string(guide), -1) {
		name = strings.TrimSuffix(name, "_bucket")
		if !slices.ContainsFunc(registered, func(r string) bool { return strings.HasPrefix(r, name+" ") }) {
			t.Errorf("the guide speaks of %s, which there is not", name)
		}
	}
}
