package metastore_test

import (
	"strings"
	"testing"

	"github.com/tinkex/tinkex/internal/metastore"
)

// Every list is read from the index made for it, in its order and without
// looking at the rows that are skipped. It does not take statistics for that:
// the tables are filled here, but were never analyzed.
func TestPlans(t *testing.T) {
	lists := []struct {
		f     metastore.CheckpointFilter
		index string
	}{
		{metastore.CheckpointFilter{}, "checkpoints_list"},
		{metastore.CheckpointFilter{Owner: "owner-0"}, "checkpoints_list_owner"},
		{metastore.CheckpointFilter{Owner: "owner-0", Kind: metastore.KindTraining}, "checkpoints_list_owner_kind"},
		{metastore.CheckpointFilter{RunID: "session-0:train:0"}, "checkpoints_list_run"},
		{metastore.CheckpointFilter{RunID: "session-0:train:0", Kind: metastore.KindSampler}, "checkpoints_list_run_kind"},
	}
	check := func(t *testing.T, s metastore.Store, covering, plain string) {
		t.Helper()
		if err := metastore.Seed(t.Context(), s, 5_000, 20, longAgo.UnixMicro()); err != nil {
			t.Fatal(err)
		}
		for _, list := range lists {
			list.f.Now = later
			for way, by := range map[int]string{
				metastore.ByOffset: covering, metastore.AfterPlace: plain, metastore.BetweenPlaces: plain, metastore.SkippingFromPlace: covering,
			} {
				if way == metastore.BetweenPlaces && list.f.Kind != "" {
					continue // is not asked for
				}
				plan, err := metastore.Explain(t.Context(), s, list.f, way)
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(plan, by+list.index+" ") || strings.Contains(strings.ToUpper(plan), "SORT") || strings.Contains(plan, "TEMP B-TREE") {
					t.Errorf("%+v is found by\n%s\nand not by %s%s alone", list.f, plan, by, list.index)
				}
			}
		}
	}
	t.Run("SQLite", func(t *testing.T) {
		s := openSQLite(t, ":memory:")
		defer s.Close()
		check(t, s, "USING COVERING INDEX ", "USING INDEX ")
	})
	t.Run("Postgres", func(t *testing.T) {
		s := openPostgres(t, postgresSchemas(t).of(t))
		defer s.Close()
		check(t, s, "Index Only Scan Backward using ", "Index Scan Backward using ")
	})
}
