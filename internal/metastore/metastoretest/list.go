package metastoretest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/metastore"
)

// spread makes a few owners with a few runs each.
func (f fixture) spread() (runs []metastore.Run) {
	for _, owner := range []string{"alice", "bob"} {
		for i := range 3 {
			session := fmt.Sprintf("%s%d", owner, i)
			f.session(session, owner)
			f.run(session+":train:0", owner)
			runs = append(runs, value(f.Run(f.ctx, session+":train:0"))(f))
		}
	}
	return runs
}

func testCheckpointLists(t *testing.T, f fixture) {
	f.spread()
	for i, c := range []metastore.Checkpoint{
		{RunID: "alice0", Kind: training, Name: "a", CreatedAt: after(1)},
		{RunID: "alice0", Kind: sampler, Name: "b", CreatedAt: after(3)},
		{RunID: "alice1", Kind: training, Name: "c", CreatedAt: after(2)},
		{RunID: "alice1", Kind: training, Name: "d", CreatedAt: after(2)}, // a tie, to be told apart by id
		{RunID: "alice0", Kind: external, Name: "e", CreatedAt: after(4)},
		{RunID: "bob0", Kind: training, Name: "f", CreatedAt: after(5)},
		{RunID: "alice0", Kind: sampler, Name: "unlisted", CreatedAt: after(6)},
		{RunID: "alice0", Kind: sampler, Name: "expired", CreatedAt: after(7), ExpiresAt: ptr(after(50))},
		{RunID: "bob1", Kind: sampler, Name: "g", CreatedAt: after(8), ExpiresAt: ptr(after(51))},
	} {
		c.RunID += ":train:0"
		c.Owner = c.RunID[:len(c.RunID)-len("0:train:0")]
		c.Listed = c.Name != "unlisted"
		c.Files = []metastore.File{file("f", int64(i), byte(i))}
		f.commit(c)
	}
	now := after(50)
	tests := []struct {
		f    metastore.CheckpointFilter
		want string
	}{
		{metastore.CheckpointFilter{}, "g f e b d c a"},
		{metastore.CheckpointFilter{Kind: training}, "f d c a"},
		{metastore.CheckpointFilter{Kind: sampler}, "g b"},
		{metastore.CheckpointFilter{Owner: "alice"}, "e b d c a"},
		{metastore.CheckpointFilter{Owner: "alice", Kind: training}, "d c a"},
		{metastore.CheckpointFilter{Owner: "alice", Kind: sampler}, "b"},
		{metastore.CheckpointFilter{Owner: "alice", Kind: external}, "e"},
		{metastore.CheckpointFilter{Owner: "bob"}, "g f"},
		{metastore.CheckpointFilter{Owner: "carol"}, ""},
		{metastore.CheckpointFilter{RunID: "alice0:train:0"}, "e b a"},
		{metastore.CheckpointFilter{RunID: "alice0:train:0", Owner: "alice"}, "e b a"},
		{metastore.CheckpointFilter{RunID: "alice0:train:0", Kind: sampler}, "b"},
		{metastore.CheckpointFilter{RunID: "alice0:train:0", Kind: sampler, Owner: "alice"}, "b"},
		{metastore.CheckpointFilter{RunID: "alice0:train:0", Owner: "bob"}, ""},
		{metastore.CheckpointFilter{RunID: "alice2:train:0"}, ""},
		{metastore.CheckpointFilter{RunID: "none"}, ""},
		{metastore.CheckpointFilter{RunID: "none", Owner: "alice"}, ""},
	}
	for _, test := range tests {
		test.f.Now = now
		page, n, err := f.Checkpoints(f.ctx, test.f, metastore.Page{Limit: 100})
		f.must(err)
		if names(page) != test.want || n != len(page) {
			t.Errorf("%+v selects %s of %d, want %s", test.f, names(page), n, test.want)
		}
		for _, c := range page {
			if c.Files != nil {
				t.Errorf("%s is listed with its files", c.Name)
			}
		}
		for i := range len(page) + 1 {
			var place *metastore.CheckpointPlace
			if i > 0 {
				place = &metastore.CheckpointPlace{CreatedAt: page[i-1].CreatedAt, ID: page[i-1].ID}
			}
			var want []metastore.ListedCheckpoint
			for _, c := range page[i:] {
				want = append(want, c.InList())
			}
			got, next, err := f.CheckpointsAfter(f.ctx, test.f, place, 100, nil)
			f.must(err)
			if len(got)+len(want) > 0 {
				same(t, "checkpoints in their list's order", got, want)
			}
			if next != nil {
				t.Errorf("%+v: the list goes on at %v", test.f, next)
			}
		}
	}
	if _, _, err := f.CheckpointsAfter(f.ctx, metastore.CheckpointFilter{Owner: "alice", Kind: "heights"}, nil, 9, nil); err == nil {
		t.Error("there is a list of a kind that there is not")
	}
	if _, _, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{Owner: "alice", Kind: "heights"}, metastore.Page{}); err == nil {
		t.Error("there is a list of a kind that there is not")
	}
	for run, want := range map[string]string{"alice0:train:0": "e b a", "bob1:train:0": "g", "alice2:train:0": "", "none": ""} {
		if got := names(value(f.AllRunCheckpoints(f.ctx, run, now))(f)); got != want {
			t.Errorf("all of run %s are %s, want %s", run, got, want)
		}
	}
}

func testCheckpointExpiry(t *testing.T, f fixture) {
	run := f.alice()
	var ids []int64
	for i := range 6 {
		c := checkpoint(training, fmt.Sprint(i), after(i))
		if i%2 == 1 {
			c.ExpiresAt = ptr(after(100 + i))
		}
		ids = append(ids, f.commit(c).ID)
	}
	expect := func(now time.Time, want string) {
		t.Helper()
		for _, filter := range []metastore.CheckpointFilter{
			{Now: now}, {Owner: "alice", Now: now}, {RunID: run, Now: now}, {RunID: run, Kind: training, Now: now},
		} {
			page, n, err := f.Checkpoints(f.ctx, filter, metastore.Page{Limit: 100})
			f.must(err)
			if names(page) != want || n != len(page) {
				t.Errorf("%+v selects %s of %d, want %s", filter, names(page), n, want)
			}
		}
		if got := names(value(f.AllRunCheckpoints(f.ctx, run, now))(f)); got != want {
			t.Errorf("all are %s, want %s", got, want)
		}
	}
	// Hidden from the very microsecond, swept or not.
	expect(after(101).Add(-time.Microsecond), "5 4 3 2 1 0")
	expect(after(101), "5 4 3 2 0")
	expect(after(103), "5 4 2 0")
	expect(after(1000), "4 2 0")
	// Offsets count only what is there.
	page, n, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{Owner: "alice", Now: after(103)}, metastore.Page{Limit: 2, Offset: 1})
	f.must(err)
	if names(page) != "4 2" || n != 4 {
		t.Errorf("page is %s of %d, want 4 2 of 4", names(page), n)
	}
	// The expiry may change, even of one that has expired.
	f.must(f.SetExpiry(f.ctx, ids[1], ptr(after(2000))))
	f.must(f.SetExpiry(f.ctx, ids[3], nil))
	f.must(f.SetExpiry(f.ctx, ids[4], ptr(after(1000))))
	expect(after(1000), "3 2 1 0")
	// Sweeping changes nothing that can be seen.
	same(t, "swept", value(f.DeleteExpired(f.ctx, after(1000), t0, 100))(f), 2)
	expect(after(1000), "3 2 1 0")
}

// A list is gone through from place to place while it changes: what is there
// from beginning to end is met once, in order.
func testCheckpointsAfter(t *testing.T, f fixture) {
	f.alice()
	const n = 2100
	var all []metastore.Checkpoint
	for i := range n {
		c := checkpoint(training, fmt.Sprint(i), after(i/3)) // ties
		c.Files = nil
		all = append(all, c)
	}
	var stored []metastore.Checkpoint
	for some := range slices.Chunk(all, 100) { // a store has its time for each
		stored = append(stored, value(f.CommitImport(f.ctx, metastore.Import{Owner: "alice", Checkpoints: some}))(f)...)
	}
	filter := metastore.CheckpointFilter{Owner: "alice", Now: t0}
	place := &metastore.CheckpointPlace{CreatedAt: after(1), ID: 1}
	for _, limit := range []int{0, -1} {
		list, next, err := f.CheckpointsAfter(f.ctx, filter, place, limit, nil)
		f.must(err)
		if len(list) != 0 || next != place {
			t.Errorf("%d of them: %v, going on at %v", limit, list, next)
		}
	}
	gone := map[int]bool{}
	var into []metastore.ListedCheckpoint
	for _, limit := range []int{1000, 499, 500, 501, 2099, 2100, 2101, 10_000} {
		var met []string
		var at *metastore.CheckpointPlace
		requests := 0
		for {
			list, next, err := f.CheckpointsAfter(f.ctx, filter, at, limit, into[:0])
			into = list
			f.must(err)
			for _, c := range list {
				met = append(met, c.Name)
			}
			if requests++; requests > n {
				t.Fatalf("by %d the list does not end", limit)
			}
			if len(list) > limit || next != nil && len(list) < limit {
				t.Errorf("%d of them are %d", limit, len(list))
			}
			if at = next; next == nil {
				break
			}
			// The last one met goes, and so does its place; new ones come before it.
			last := list[len(list)-1]
			f.must(f.DeleteCheckpoint(f.ctx, last.ID))
			i := slices.IndexFunc(stored, func(c metastore.Checkpoint) bool { return c.ID == last.ID })
			gone[i] = true
			c := checkpoint(training, fmt.Sprint("new-", limit, "-", requests), after(n+limit))
			c.ExpiresAt = ptr(t0.Add(time.Microsecond)) // for this time only
			f.commit(c)
		}
		i := 0
		for j := n - 1; j >= 0; j-- {
			if gone[j] && !slices.Contains(met, fmt.Sprint(j)) {
				continue
			}
			for i < len(met) && strings.HasPrefix(met[i], "new-") {
				i++ // of an earlier time
			}
			if i == len(met) || met[i] != fmt.Sprint(j) {
				t.Fatalf("by %d: number %d is not %d; met %d of %d", limit, i, j, len(met), n)
			}
			i++
		}
		if i != len(met) {
			t.Errorf("by %d: %d are too many", limit, len(met)-i)
		}
	}
	// And while others remove what is being read.
	var removing sync.WaitGroup
	removing.Go(func() {
		for i := 0; i < n; i += 7 {
			if !gone[i] {
				if err := f.DeleteCheckpoint(f.ctx, stored[i].ID); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 5 {
		met := map[string]bool{}
		var at *metastore.CheckpointPlace
		for {
			list, next, err := f.CheckpointsAfter(f.ctx, filter, at, 600, nil)
			f.must(err)
			for _, c := range list {
				if met[c.Name] {
					t.Errorf("%s is met twice", c.Name)
				}
				met[c.Name] = true
			}
			if at = next; next == nil {
				break
			}
		}
		for i := range n {
			if i%7 != 0 && !gone[i] && !met[fmt.Sprint(i)] {
				t.Errorf("%d is not met", i)
			}
		}
	}
	removing.Wait()
}

func testCheckpointPaging(t *testing.T, f fixture) {
	run := f.alice()
	const n = 57
	var want []string
	for i := range n {
		kind := training
		if i%3 == 0 {
			kind = sampler
		}
		// Not in the order of time, and several at a time.
		name := fmt.Sprintf("%02d", i)
		f.commit(checkpoint(kind, name, after((i*7)%20)))
		want = append(want, name)
	}
	slices.SortFunc(want, func(a, b string) int {
		return -cmp.Or(cmp.Compare(number(a)*7%20, number(b)*7%20), cmp.Compare(a, b))
	})
	for _, size := range []int{1, 2, 10, 56, 57, 58} {
		for _, filter := range []metastore.CheckpointFilter{{Now: t0}, {Owner: "alice", Now: t0}, {RunID: run, Now: t0}} {
			var got []string
			for offset := 0; ; offset += size {
				page, total, err := f.Checkpoints(f.ctx, filter, metastore.Page{Limit: size, Offset: offset})
				f.must(err)
				same(t, "total", total, n)
				if len(page) == 0 {
					break
				}
				for _, c := range page {
					got = append(got, c.Name)
				}
			}
			same(t, fmt.Sprintf("%+v in pages of %d", filter, size), got, want)
		}
	}
	for _, page := range []metastore.Page{{Limit: 0}, {Limit: -3, Offset: -3}, {Limit: 5, Offset: n}, {Limit: 5, Offset: 1 << 40}} {
		got, total, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{Owner: "alice", Now: t0}, page)
		f.must(err)
		if len(got) != 0 || total != n {
			t.Errorf("page %+v has %d of %d, want none of %d", page, len(got), total, n)
		}
	}
	// While somebody pages, what is new shifts the rest and loses nothing.
	first, _, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{Owner: "alice", Now: t0}, metastore.Page{Limit: 10})
	f.must(err)
	f.commit(checkpoint(training, "new", after(99)))
	second, total, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{Owner: "alice", Now: t0}, metastore.Page{Limit: 10, Offset: 10})
	f.must(err)
	same(t, "total", total, n+1)
	same(t, "first of the second page", second[0].ID, first[9].ID)
}

// testCheckpointPagingMeanwhile walks through a list by offset, as clients do,
// while others change it. Every page is one of a list that there was: whole, in
// order, with the total that goes with it. What is new comes in front, so that
// as long as nothing vanishes a walk meets everything that it began with.
func testCheckpointPagingMeanwhile(t *testing.T, f fixture) {
	run := f.alice()
	const n, more, size = 90, 40, 7
	var there []metastore.Checkpoint
	for i := range n {
		there = append(there, f.commit(checkpoint(training, fmt.Sprint(i), after(i))))
	}
	walk := func() map[string]bool {
		met := map[string]bool{}
		for offset := 0; ; offset += size {
			page, total, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{Owner: "alice", Now: t0}, metastore.Page{Limit: size, Offset: offset})
			f.must(err)
			if want := min(size, max(total-offset, 0)); len(page) != want {
				t.Fatalf("%d are on the page from %d of %d, want %d", len(page), offset, total, want)
			}
			if !slices.IsSortedFunc(page, func(a, b metastore.Checkpoint) int {
				return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.ID, a.ID))
			}) {
				t.Fatalf("the page from %d is not in order: %s", offset, names(page))
			}
			for _, c := range page {
				met[c.Name] = true
			}
			if len(page) == 0 {
				return met
			}
		}
	}
	other := f.reopen()
	meanwhile := func(change func() error) (end func()) {
		done := make(chan error, 1)
		go func() { done <- change() }()
		return func() {
			t.Helper()
			f.must(<-done)
		}
	}
	end := meanwhile(func() error {
		for i := range more {
			if _, err := other.CommitCheckpoint(f.ctx, checkpoint(training, fmt.Sprint("new", i), after(n+i)), false, nil); err != nil {
				return err
			}
		}
		return nil
	})
	for range 5 {
		met := walk()
		for _, c := range there {
			if !met[c.Name] {
				t.Errorf("%s was there all the time, but a walk has not met it", c.Name)
			}
		}
	}
	end()
	end = meanwhile(func() error {
		for i, c := range there {
			err := other.DeleteCheckpoint(f.ctx, c.ID)
			if i%3 == 0 && err == nil {
				again := checkpoint(sampler, c.Name, c.CreatedAt)
				again.RunID = run
				_, err = other.CommitCheckpoint(f.ctx, again, false, nil)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	for range 5 {
		walk()
	}
	end()
	same(t, "left", len(walk()), more+n/3)
}

// testCheckpointListsModel compares lists with the obvious way of making them,
// through a few hundred changes of every sort.
func testCheckpointListsModel(t *testing.T, f fixture) {
	const seed = 20260203
	random := rand.New(rand.NewPCG(seed, seed))
	runs := f.spread()
	kinds := []metastore.Kind{training, sampler, sampler, external}
	var (
		model []metastore.Checkpoint
		now   = t0
	)
	expired := func(c metastore.Checkpoint) bool { return c.ExpiresAt != nil && !c.ExpiresAt.After(now) }
	expiry := func() *time.Time {
		if random.IntN(3) > 0 {
			return nil
		}
		return ptr(now.Add(time.Duration(random.IntN(60)) * time.Second))
	}
	for step := range 400 {
		now = now.Add(time.Duration(random.IntN(2000)) * time.Millisecond)
		switch op := random.IntN(10); {
		case op < 6 || len(model) == 0:
			run := runs[random.IntN(len(runs))]
			c := metastore.Checkpoint{
				RunID: run.ID, Owner: run.Owner, Kind: kinds[random.IntN(len(kinds))], Name: fmt.Sprint(random.IntN(60)),
				Listed: random.IntN(6) > 0, ExpiresAt: expiry(),
				// Most are new, some have an older date.
				CreatedAt: now.Add(-time.Duration(max(0, random.IntN(40)-30)) * time.Minute),
			}
			same := func(o metastore.Checkpoint) bool { return o.RunID == c.RunID && o.Kind == c.Kind && o.Name == c.Name }
			c, err := f.CommitCheckpoint(f.ctx, c, true, nil)
			f.must(err)
			model = append(slices.DeleteFunc(model, same), c)
		case op == 6:
			i := random.IntN(len(model))
			f.must(f.DeleteCheckpoint(f.ctx, model[i].ID))
			model = slices.Delete(model, i, i+1)
		case op == 7:
			i := random.IntN(len(model))
			model[i].ExpiresAt = expiry()
			f.must(f.SetExpiry(f.ctx, model[i].ID, model[i].ExpiresAt))
		case op == 8 && step%20 == 0:
			n, err := f.DeleteExpired(f.ctx, now, t0, 1000)
			f.must(err)
			before := len(model)
			model = slices.DeleteFunc(model, expired)
			if n != before-len(model) {
				t.Fatalf("step %d: %d swept, want %d", step, n, before-len(model))
			}
		}
		filter := metastore.CheckpointFilter{Now: now}
		if random.IntN(2) == 0 {
			filter.Owner = runs[random.IntN(len(runs))].Owner
		}
		if random.IntN(3) == 0 {
			filter.RunID = runs[random.IntN(len(runs))].ID
		}
		if random.IntN(3) == 0 {
			filter.Kind = kinds[random.IntN(len(kinds))]
		}
		var want []int64
		slices.SortFunc(model, func(a, b metastore.Checkpoint) int {
			return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.ID, a.ID))
		})
		for _, c := range model {
			if c.Listed && !expired(c) && (filter.Owner == "" || filter.Owner == c.Owner) &&
				(filter.RunID == "" || filter.RunID == c.RunID) && (filter.Kind == "" || filter.Kind == c.Kind) {
				want = append(want, c.ID)
			}
		}
		page := metastore.Page{Limit: random.IntN(20), Offset: random.IntN(len(want) + 3)}
		got, total, err := f.Checkpoints(f.ctx, filter, page)
		f.must(err)
		end := min(page.Offset+page.Limit, len(want))
		ids := []int64{}
		for _, c := range got {
			ids = append(ids, c.ID)
		}
		if total != len(want) || !slices.Equal(ids, want[min(page.Offset, end):end]) {
			t.Fatalf("step %d: %+v, %+v: %v of %d, want %v of %d",
				step, filter, page, ids, total, want[min(page.Offset, end):end], len(want))
		}
	}
}

// testCheckpointListsFilled fills a store at once and goes on with it as if
// everything in it had been saved one by one.
func testCheckpointListsFilled(t *testing.T, f fixture) {
	const n = 1300
	sessions := []metastore.Session{
		{ID: "a", Owner: "alice", CreatedAt: t0, LastHeartbeat: t0, ProjectID: "p"},
		{ID: "b", Owner: "bob", CreatedAt: t0, LastHeartbeat: t0},
	}
	var runs []metastore.Run
	for i := range 4 {
		s := sessions[i%2]
		runs = append(runs, metastore.Run{
			ID: fmt.Sprintf("%s:train:%d", s.ID, i), SessionID: s.ID, Seq: int64(i), Owner: s.Owner, LoRA: lora,
			CreatedAt: after(i), LastRequestAt: after(i), State: metastore.RunEnded,
		})
	}
	var want []metastore.Checkpoint
	for i := range n {
		c := checkpoint([]metastore.Kind{training, sampler}[i%3%2], fmt.Sprint(i), after(i/2))
		c.RunID, c.Owner = runs[i%4].ID, runs[i%4].Owner
		if c.Listed = i%7 > 0; i%5 == 0 {
			c.ExpiresAt = ptr(after(n))
		}
		want = append(want, c)
	}
	f.must(metastore.Fill(f.ctx, f.Store, sessions, runs, slices.Values(want)))

	same(t, "session", value(f.Session(f.ctx, "a"))(f), sessions[0])
	for project, total := range map[string]int{"": 2, "p": 2, "q": 0} {
		_, n, err := f.Runs(f.ctx, "alice", project, metastore.Page{Limit: 9})
		f.must(err)
		same(t, "runs in project "+project, n, total)
	}
	same(t, "counters", len(value(f.Counters(f.ctx))(f)), 0)
	for i := range want {
		got := value(f.Checkpoint(f.ctx, want[i].RunID, want[i].Kind, want[i].Name))(f)
		if want[i].ID, want[i].SizeBytes = got.ID, 2100; i > 0 && got.ID <= want[i-1].ID {
			t.Fatalf("%s has id %d after %d", got.Name, got.ID, want[i-1].ID)
		}
		same(t, "checkpoint", got, want[i])
	}
	// One that is saved and one that is deleted, in the middle of everything.
	want = append(want, f.commit(metastore.Checkpoint{RunID: "a:train:0", Kind: sampler, Name: "new", Owner: "alice", Listed: true, CreatedAt: after(n / 4)}))
	f.must(f.DeleteCheckpoint(f.ctx, want[n/2].ID))
	want = slices.Delete(want, n/2, n/2+1)
	slices.SortFunc(want, func(a, b metastore.Checkpoint) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.ID, a.ID))
	})
	for _, now := range []time.Time{t0, after(n)} {
		for _, filter := range []metastore.CheckpointFilter{{Owner: "alice"}, {Owner: "bob", Kind: sampler}, {RunID: "a:train:0"}} {
			var all []int64
			for _, c := range want {
				if c.Listed && (c.ExpiresAt == nil || c.ExpiresAt.After(now)) && (filter.Owner == "" || filter.Owner == c.Owner) &&
					(filter.RunID == "" || filter.RunID == c.RunID) && (filter.Kind == "" || filter.Kind == c.Kind) {
					all = append(all, c.ID)
				}
			}
			filter.Now = now
			for offset := 0; offset <= len(all); offset += 100 {
				page, total, err := f.Checkpoints(f.ctx, filter, metastore.Page{Limit: 100, Offset: offset})
				f.must(err)
				ids := []int64{}
				for _, c := range page {
					ids = append(ids, c.ID)
				}
				if total != len(all) || !slices.Equal(ids, all[offset:min(offset+100, len(all))]) {
					t.Fatalf("%+v from %d: %v of %d, want %v of %d", filter, offset, ids, total, all[offset:min(offset+100, len(all))], len(all))
				}
			}
		}
	}
}

func testLatestCheckpoints(t *testing.T, f fixture) {
	runs := f.spread()
	for i, c := range []metastore.Checkpoint{
		{RunID: "alice0", Kind: training, Name: "old", CreatedAt: after(1)},
		{RunID: "alice0", Kind: training, Name: "new", CreatedAt: after(3)},
		{RunID: "alice0", Kind: training, Name: "late but older", CreatedAt: after(2)},
		{RunID: "alice0", Kind: training, Name: "expired", CreatedAt: after(4), ExpiresAt: ptr(after(50))},
		{RunID: "alice0", Kind: sampler, Name: "tie", CreatedAt: after(1)},
		{RunID: "alice0", Kind: sampler, Name: "tied", CreatedAt: after(1)},
		{RunID: "alice0", Kind: sampler, Name: "unlisted", CreatedAt: after(9)},
		{RunID: "alice0", Kind: external, Name: "external", CreatedAt: after(9)},
		{RunID: "alice1", Kind: sampler, Name: "only", CreatedAt: after(1), ExpiresAt: ptr(after(51))},
		{RunID: "bob0", Kind: training, Name: "bob's", CreatedAt: after(1)},
		{RunID: "bob1", Kind: training, Name: "unlisted", CreatedAt: after(1)},
	} {
		c.RunID += ":train:0"
		c.Owner = c.RunID[:len(c.RunID)-len("0:train:0")]
		c.Listed = c.Name != "unlisted"
		c.Files = []metastore.File{file("f", int64(i), byte(i))}
		f.commit(c)
	}
	var ids []string
	for _, r := range runs {
		if r.ID != "bob0:train:0" {
			ids = append(ids, r.ID)
		}
	}
	ids = append(ids, "none", ids[0])
	for i := range 1200 { // more than fit into one query
		ids = append(ids, fmt.Sprint("none", i))
	}
	got := map[string]string{}
	all := value(f.LatestCheckpoints(f.ctx, ids, after(50)))(f)
	for _, r := range runs {
		info, latest, err := f.RunInfo(f.ctx, r.ID, after(50))
		f.must(err)
		same(t, "run", info, r)
		if r.ID != "bob0:train:0" {
			same(t, "latest of "+r.ID, latest, all[r.ID])
		} else if len(latest) != 1 || latest[training].Name != "bob's" {
			t.Errorf("latest of bob's run are %+v", latest)
		}
	}
	_, _, err := f.RunInfo(f.ctx, "none", after(50))
	f.is(err, metastore.ErrNotFound, "run none: not found")
	for run, kinds := range all {
		for kind, c := range kinds {
			got[fmt.Sprint(run, "/", kind)] = c.Name
			if c.RunID != run || c.Kind != kind || c.SizeBytes == 0 || c.Files != nil {
				t.Errorf("the latest %s of %s is %+v", kind, run, c)
			}
		}
	}
	same(t, "latest", got, map[string]string{
		"alice0:train:0/weights":         "new",
		"alice0:train:0/sampler_weights": "tied",
		"alice1:train:0/sampler_weights": "only",
	})
	same(t, "latest of none", len(value(f.LatestCheckpoints(f.ctx, nil, t0))(f)), 0)
}

func testDeleteExpired(t *testing.T, f fixture) {
	run := f.alice()
	for i := range 10 {
		c := checkpoint(training, fmt.Sprint(i), after(i))
		c.Listed = i%3 > 0
		if i < 8 {
			c.ExpiresAt = ptr(after(100 - i)) // the last first
		}
		f.commit(c)
	}
	for _, step := range []struct {
		now, limit, want int
		left             string
	}{
		{92, 100, 0, "8 7 5 4 2 1"},
		{93, 0, 0, "8 7 5 4 2 1"},
		{93, -1, 0, "8 7 5 4 2 1"},
		{93, 100, 1, "8 5 4 2 1"}, // at the moment it expires
		{97, 2, 2, "8 4 2 1"},     // the longest expired first
		{97, 100, 2, "8 2 1"},
		{1000, 100, 3, "8"},
		{1000, 100, 0, "8"},
	} {
		n := value(f.DeleteExpired(f.ctx, after(step.now), t0, step.limit))(f)
		page, total, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{RunID: run, Now: t0}, metastore.Page{Limit: 100})
		f.must(err)
		if n != step.want || names(page) != step.left || total != len(page) {
			t.Errorf("%+v: %d went, left are %s of %d", step, n, names(page), total)
		}
	}
	value(f.Checkpoint(f.ctx, run, training, "9"))(f)
}

func testDeleteIdle(t *testing.T, f fixture) {
	// Sessions by what became of them, with their last heartbeats.
	for id, beat := range map[string]int{"live": 100, "silent": 10, "finished": 100, "finishing": 100} {
		f.must(f.CreateSession(f.ctx, metastore.Session{ID: id, Owner: "alice", CreatedAt: t0, LastHeartbeat: after(beat)}))
		f.run(id+":train:0", "alice")
	}
	f.must(f.FinishSession(f.ctx, "finished", after(20), "success", ""))
	f.must(f.FinishSession(f.ctx, "finishing", after(50), "success", ""))
	f.must(f.CreateRun(f.ctx, metastore.Run{ID: "sessionless", Owner: "alice"}))
	save := func(run string) {
		for _, listed := range []bool{true, false} {
			for i := range 3 {
				c := checkpoint(sampler, fmt.Sprintf("%t%d", listed, i), after(i))
				c.RunID, c.Listed = run, listed
				f.commit(c)
			}
		}
	}
	for _, run := range []string{"live:train:0", "silent:train:0", "finished:train:0", "finishing:train:0", "sessionless"} {
		save(run)
	}
	for i, step := range []struct{ idle, limit, want int }{
		{10, 100, 0}, // before, not at
		{11, 2, 2},
		{11, 100, 1}, // silent
		{50, 100, 3}, // finished
		{51, 0, 0},
		{51, 100, 3}, // finishing
		{100, 100, 0},
	} {
		if n := value(f.DeleteExpired(f.ctx, t0, after(step.idle), step.limit))(f); n != step.want {
			t.Errorf("step %d: %d went, want %d", i, n, step.want)
		}
	}
	for run, left := range map[string]bool{
		"live:train:0": true, "silent:train:0": false, "finished:train:0": false, "finishing:train:0": false, "sessionless": true,
	} {
		_, err := f.Checkpoint(f.ctx, run, sampler, "false0")
		if (err == nil) != left {
			t.Errorf("unlisted checkpoint of %s: %v, want it there: %t", run, err, left)
		}
		_, n, err := f.Checkpoints(f.ctx, metastore.CheckpointFilter{RunID: run, Now: t0}, metastore.Page{})
		f.must(err)
		same(t, "listed checkpoints of "+run, n, 3)
	}
	// Both sorts go at once, each up to the limit, and none counts twice.
	c := checkpoint(sampler, "both", t0)
	c.RunID, c.Listed, c.ExpiresAt = "silent:train:0", false, ptr(t0)
	f.commit(c)
	for _, name := range []string{"u1", "u2"} {
		c.Name, c.ExpiresAt = name, nil
		f.commit(c)
	}
	same(t, "swept", value(f.DeleteExpired(f.ctx, t0, after(100), 1))(f), 2)
	same(t, "swept", value(f.DeleteExpired(f.ctx, t0, after(100), 1))(f), 1)
}
