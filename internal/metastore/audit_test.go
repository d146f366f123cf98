package metastore_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/metastore"
)

// eachDatabase runs a test on an empty store of every kind there is to test.
func eachDatabase(t *testing.T, test func(t *testing.T, s metastore.Store)) {
	t.Run("SQLite", func(t *testing.T) {
		s := openSQLite(t, filepath.Join(t.TempDir(), "meta.db"))
		defer s.Close()
		test(t, s)
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		s := openPostgres(t, postgresSchemas(t).of(t))
		defer s.Close()
		test(t, s)
	})
}

// fill saves n checkpoints of each of two owners, in a project.
func fill(t *testing.T, s metastore.Store, n int) {
	t.Helper()
	at := time.Unix(1_000_000, 0).UTC()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, owner := range []string{"alice", "bob"} {
		run := owner + ":train:0"
		must(s.CreateSession(t.Context(), metastore.Session{ID: owner, Owner: owner, CreatedAt: at, LastHeartbeat: at, ProjectID: "p"}))
		must(s.CreateRun(t.Context(), metastore.Run{ID: run, SessionID: owner, Owner: owner, CreatedAt: at, LastRequestAt: at, State: metastore.RunEnded}))
		for i := range n {
			_, err := s.CommitCheckpoint(t.Context(), metastore.Checkpoint{
				RunID: run, Kind: []metastore.Kind{metastore.KindTraining, metastore.KindSampler}[i%2], Name: fmt.Sprint(i),
				Owner: owner, Listed: true, CreatedAt: at.Add(time.Duration(i) * time.Second), Files: []metastore.File{{Name: "a", Size: 3}, {Name: "b", Size: 4}},
			}, false, nil)
			must(err)
		}
	}
}

func TestCountersDamaged(t *testing.T) {
	for name, c := range map[string]struct {
		damage string
		wrong  []string // Of, Stored, Counted
	}{
		"a block counts too many": {`UPDATE checkpoint_blocks SET weights = weights + 5 WHERE list = 'owner/alice' AND id = 0`,
			[]string{"checkpoints of owner alice 25 20"}},
		"a kind for another": {`UPDATE checkpoint_blocks SET weights = weights + 1, sampler_weights = sampler_weights - 1 WHERE list = 'run/bob:train:0' AND id = 0`,
			[]string{"checkpoints of run bob:train:0 20 20"}},
		"no blocks": {`DELETE FROM checkpoint_blocks WHERE list LIKE 'owner/%'`,
			[]string{"checkpoints of owner alice 0 20", "checkpoints of owner bob 0 20"}},
		"no last block": {`DELETE FROM checkpoint_blocks WHERE list = 'owner/bob' AND id = 0`,
			[]string{"checkpoints of owner bob 18 20"}},
		"a list of nothing": {`INSERT INTO checkpoint_blocks (list, created_at, id, weights, sampler_weights, external_weights) VALUES ('run/gone', 0, 0, 0, 0, 7)`,
			[]string{"checkpoints of run gone 7 0"}},
		"an unlisted one": {`UPDATE checkpoints SET listed = 0 WHERE owner = 'alice' AND name = '3'`,
			[]string{"checkpoints of owner alice 20 19", "checkpoints of run alice:train:0 20 19"}},
		"totals": {`UPDATE totals SET n = n + 2 WHERE owner = 'bob'`,
			[]string{"runs of owner bob 3 1", "runs of owner bob in project p 3 1", "sessions of owner bob 3 1"}},
		"no totals": {`DELETE FROM totals WHERE owner = 'alice'`,
			[]string{"runs of owner alice 0 1", "runs of owner alice in project p 0 1", "sessions of owner alice 0 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			eachDatabase(t, func(t *testing.T, s metastore.Store) {
				metastore.SetBlockSize(s, 4)
				fill(t, s, 20)
				if err := metastore.Exec(t.Context(), s, c.damage); err != nil {
					t.Fatal(err)
				}
				wrong, err := s.Counters(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, w := range wrong {
					got = append(got, fmt.Sprint(w.Of, " ", w.Stored, " ", w.Counted))
					if err := s.Recount(t.Context(), w); err != nil {
						t.Fatal(err)
					}
				}
				slices.Sort(got)
				// How large the last block is depends on how they divided.
				if name != "no last block" && !slices.Equal(got, c.wrong) || len(got) != len(c.wrong) {
					t.Errorf("wrong are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.wrong, "\n"))
				}
				if left, err := s.Counters(t.Context()); err != nil || len(left) > 0 {
					t.Errorf("after the recount: %v, %v", left, err)
				}
				if err := metastore.CheckBlocks(t.Context(), s); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestRecountBesideWriters: no save or deletion is lost to a recount.
func TestRecountBesideWriters(t *testing.T) {
	eachDatabase(t, func(t *testing.T, s metastore.Store) {
		metastore.SetBlockSize(s, 4)
		fill(t, s, 6)
		if err := metastore.Exec(t.Context(), s, `UPDATE checkpoint_blocks SET weights = weights + 9`, `UPDATE totals SET n = n + 9`); err != nil {
			t.Fatal(err)
		}
		wrong, err := s.Counters(t.Context())
		if err != nil || len(wrong) != 10 {
			t.Fatalf("%d are wrong, want 4 lists and 6 totals: %v", len(wrong), err)
		}
		errs := make(chan error)
		for w := range 3 {
			go func() { errs <- saveAndDelete(t, s, w, 40) }()
		}
		go func() {
			for range 10 {
				for _, c := range wrong {
					if err := s.Recount(t.Context(), c); err != nil {
						errs <- err
						return
					}
				}
			}
			errs <- nil
		}()
		for range 4 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if left, err := s.Counters(t.Context()); err != nil || len(left) > 0 {
			t.Errorf("after the recounts: %v, %v", left, err)
		}
	})
}

func saveAndDelete(t *testing.T, s metastore.Store, w, n int) error {
	at := time.Unix(2_000_000, 0).UTC()
	for i := range n {
		err := s.CreateRun(t.Context(), metastore.Run{ID: fmt.Sprint(w, "-", i), SessionID: "alice", Owner: "alice", CreatedAt: at, LastRequestAt: at})
		if err != nil {
			return err
		}
		c, err := s.CommitCheckpoint(t.Context(), metastore.Checkpoint{
			RunID: "alice:train:0", Kind: metastore.KindTraining, Name: fmt.Sprint(w, "-", i), Owner: "alice", Listed: true,
			CreatedAt: at.Add(time.Duration(i) * time.Second),
		}, false, nil)
		if err == nil && i%3 > 0 {
			err = s.DeleteCheckpoint(t.Context(), c.ID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func TestManifestsDamaged(t *testing.T) {
	eachDatabase(t, func(t *testing.T, s metastore.Store) {
		fill(t, s, 3)
		all, err := s.Manifests(t.Context(), 0, 9)
		if err != nil || len(all) != 6 {
			t.Fatal(all, err)
		}
		damage := []string{
			fmt.Sprintf(`DELETE FROM checkpoint_files WHERE checkpoint_id = %d AND position = 0`, all[0].ID),
			fmt.Sprintf(`DELETE FROM checkpoint_files WHERE checkpoint_id = %d`, all[1].ID),
			fmt.Sprintf(`UPDATE checkpoints SET size_bytes = 70 WHERE id = %d`, all[2].ID),
		}
		lax := !strings.Contains(t.Name(), "PostgreSQL") // about references
		if lax {
			damage = append(damage, `DELETE FROM runs WHERE id = 'bob:train:0'`, fmt.Sprintf(`DELETE FROM checkpoints WHERE id = %d`, all[5].ID))
		}
		if err := metastore.Exec(t.Context(), s, damage...); err != nil {
			t.Fatal(err)
		}
		got, err := s.Manifests(t.Context(), 0, 9)
		if err != nil {
			t.Fatal(err)
		}
		if !got[0].Gaps || len(got[0].Files) != 1 || got[1].Gaps || len(got[1].Files) != 0 || got[2].Gaps || got[2].SizeBytes != 70 {
			t.Errorf("manifests are %+v", got[:3])
		}
		orphans := 0
		if lax {
			if orphans = 2; len(got) != 5 || got[0].RunMissing || !got[3].RunMissing || !got[4].RunMissing {
				t.Errorf("manifests are %+v", got)
			}
			if err := s.Quarantine(t.Context(), got[3].ID, time.Now(), ""); err != nil {
				t.Fatal(err)
			}
			if z, err := s.Quarantined(t.Context()); err != nil || len(z) != 1 || !z[0].RunMissing {
				t.Errorf("in quarantine are %+v, %v", z, err)
			}
			if _, err := s.Release(t.Context(), got[3].ID); err == nil || !strings.Contains(err.Error(), "run bob:train:0: not found") {
				t.Errorf("released without a run: %v", err)
			}
		}
		for _, step := range []struct {
			remove bool
			want   int
		}{{false, orphans}, {true, orphans}, {false, 0}} {
			if n, err := s.OrphanFiles(t.Context(), step.remove); err != nil || n != step.want {
				t.Errorf("%d orphans, want %d: %v", n, step.want, err)
			}
		}
		// In quarantine, gaps stay what they are.
		if err := s.Quarantine(t.Context(), got[0].ID, time.Now(), ""); err != nil {
			t.Fatal(err)
		}
		if z, err := s.Quarantined(t.Context()); err != nil || !z[0].Gaps || len(z[0].Files) != 1 {
			t.Errorf("in quarantine are %+v, %v", z, err)
		}
	})
}
