package crash

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/node"
	"github.com/tinkex/tinkex/internal/pgtest"
)

// A database that comes and goes under load does not take the server with it,
// which works again by itself.
func TestDatabaseComesAndGoes(t *testing.T) {
	pg := pgtest.Own(t)
	at := &place{stores: node.Stores{DataDir: filepath.Join(t.TempDir(), "data"), DB: pg.URL}}
	s := at.serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var load sync.WaitGroup
	for i := range 8 {
		svc := client(t, s.url, fmt.Sprintf("tml-load-%d", i))
		t.Cleanup(func() { _ = svc.Close() })
		rest := svc.RestClient()
		load.Go(func() {
			var tc *tinkex.TrainingClient
			for n := 0; ctx.Err() == nil; n++ {
				body := fmt.Sprint(i, n)
				_ = rest.UploadBlob(ctx, blobOf([]byte(body)), strings.NewReader(body))
				_, _ = rest.ListCheckpoints(ctx, tinkex.ListOptions{})
				if i%2 == 0 {
					continue
				}
				if tc == nil {
					tc, _ = svc.CreateLoRATrainingClient(ctx, baseModel, options(0))
					continue
				}
				if _, err := tc.SaveState(ctx, fmt.Sprint("s", n), tinkex.SaveOptions{}).Await(ctx); err != nil {
					tc = nil
				}
			}
		})
	}
	for range 5 {
		time.Sleep(300 * time.Millisecond)
		if err := pg.Stop(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
		if err := pg.Start(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-s.done:
			t.Fatal("the server has ended")
		default:
		}
	}
	cancel()
	load.Wait()
	svc := client(t, s.url, "tml-load-1")
	defer svc.Close()
	_, err := svc.RestClient().ListCheckpoints(t.Context(), tinkex.ListOptions{})
	for began := time.Now(); err != nil && time.Since(began) < time.Minute; time.Sleep(100 * time.Millisecond) {
		_, err = svc.RestClient().ListCheckpoints(t.Context(), tinkex.ListOptions{})
	}
	if err != nil {
		t.Error(err)
	}
	at.fsck(t)
}
