package crash

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/node"
	"github.com/tinkex/tinkex/internal/pgtest"
	"github.com/tinkex/tinkex/internal/s3test"
	"github.com/tinkex/tinkex/internal/testproc"
	"github.com/tinkex/tinkex/internal/wire"
)

// failsWithin is what a request may take to fail while a store does not
// answer: what a store has for an answer, and a busy machine.
const failsWithin = 15*time.Second + 30*time.Second

// outageTime is how long stores are away: TINKEX_OUTAGE, as in
// TINKEX_OUTAGE=30s, or a little.
func outageTime(t *testing.T) time.Duration {
	s := os.Getenv("TINKEX_OUTAGE")
	if s == "" {
		return 2 * time.Second
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatalf("TINKEX_OUTAGE: %v", err)
	}
	return d
}

// trouble is one way in which a store fails.
type trouble struct {
	at         *place
	begin, end func() error
	// reads: what only asks the database fails; says is what the failures say.
	reads bool
	// works: requests are carried out all the same, if slowly.
	works bool
	says  string
	// never are secrets and names of places, which no client is told.
	never []string
}

// A server whose stores fail says so, promptly and without telling what is
// nobody's business, keeps what it has acknowledged, carries out later what it
// has accepted, and works again by itself.
func TestOutages(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(t *testing.T) trouble
	}{
		{"DatabaseDown", func(t *testing.T) trouble {
			pg := pgtest.Own(t)
			return trouble{
				at: &place{stores: node.Stores{DB: pg.URL, Blobs: s3test.Bucket(t)}}, reads: true,
				begin: pg.Stop, end: pg.Start, says: "metadata database ", never: []string{"127.0.0.1", "postgres"},
			}
		}},
		{"DatabaseFrozen", func(t *testing.T) trouble {
			pg := pgtest.Own(t)
			t.Cleanup(func() { _ = pg.Thaw() })
			return trouble{
				at: &place{stores: node.Stores{DB: pg.URL, Blobs: s3test.Bucket(t)}}, reads: true,
				begin: pg.Freeze, end: pg.Thaw, says: "metadata database ", never: []string{"127.0.0.1", "postgres"},
			}
		}},
		{"BucketBusy", bucketTrouble(s3test.Busy, "blob store answers 503")},
		{"BucketMute", bucketTrouble(s3test.Mute, "blob store did not answer within 15s")},
		{"BucketReset", bucketTrouble(s3test.Reset, "blob store cannot be reached")},
		{"BucketSlow", bucketTrouble(s3test.Slow, "")},
		{"DiskFull", func(t *testing.T) trouble {
			dir := mounted(t)
			data, ballast := filepath.Join(dir, "data"), filepath.Join(dir, "ballast")
			return trouble{
				at: &place{stores: node.Stores{DataDir: data}},
				begin: func() error {
					f, err := os.Create(ballast)
					if err != nil {
						return err
					}
					for err == nil {
						_, err = f.Write(make([]byte, 4096))
					}
					if !errors.Is(err, unix.ENOSPC) {
						return err
					}
					return f.Close()
				},
				end:  func() error { return os.Remove(ballast) },
				says: "has no space left on its disk", never: []string{dir},
			}
		}},
		{"DiskReadOnly", func(t *testing.T) trouble {
			dir := mounted(t)
			staging := filepath.Join(dir, "data", "staging")
			return trouble{
				at: &place{stores: node.Stores{DataDir: filepath.Join(dir, "data")}},
				begin: func() error {
					return errors.Join(unix.Mount(staging, staging, "", unix.MS_BIND, ""),
						unix.Mount("", staging, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
				},
				end:  func() error { return unix.Unmount(staging, 0) },
				says: "blob store is on a read-only disk", never: []string{dir},
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			undergo(t, test.make(t))
		})
	}
}

func bucketTrouble(kind s3test.Trouble, says string) func(*testing.T) trouble {
	return func(t *testing.T) trouble {
		bucket, proxy := s3test.BucketBehind(t)
		set := func(k s3test.Trouble) func() error { return func() error { proxy.Set(k); return nil } }
		return trouble{
			at:    &place{stores: node.Stores{DB: pgtest.Schema(t), Blobs: bucket}},
			begin: set(kind), end: set(s3test.None), works: kind == s3test.Slow, says: says,
			never: []string{"127.0.0.1", os.Getenv("AWS_SECRET_ACCESS_KEY")},
		}
	}
}

// mounted is a small file system of its own.
func mounted(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=48m"); err != nil {
		testproc.Missing(t, "A FAILING DISK", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func undergo(t *testing.T, bad trouble) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if bad.at.stores.DataDir == "" {
		bad.at.stores.DataDir = filepath.Join(t.TempDir(), "unused")
	}
	s := bad.at.serve(t)
	go func() {
		<-s.done // by itself: there is nothing to wait for any more
		cancel()
	}()
	svc := client(t, s.url, "tml-outage")
	t.Cleanup(func() { _ = svc.Close() })
	rest, l := svc.RestClient(), newLedger()
	tc, err := svc.CreateLoRATrainingClient(ctx, baseModel, options(0))
	if err != nil {
		t.Fatal(err)
	}
	save := func(name string) *tinkex.Future[*tinkex.SavedCheckpoint] {
		return tc.SaveState(ctx, name, tinkex.SaveOptions{})
	}
	keep := func(saved *tinkex.SavedCheckpoint, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		files, urls, err := manifest(ctx, rest, saved.Path)
		if err == nil {
			_, err = fetch(ctx, files, urls)
		}
		if err != nil {
			t.Fatal(err)
		}
		l.set(saved.Path, &version{content: files})
	}
	healthy := func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+wire.APIPrefix+"/healthz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", req.URL.Path, resp.Status)
		}
		return nil
	}
	// The check of a server's health has a limit, which a busy machine may miss.
	soonHealthy := func() error {
		err := healthy()
		for began := time.Now(); err != nil && time.Since(began) < time.Minute; err = healthy() {
			time.Sleep(50 * time.Millisecond)
		}
		return err
	}
	if err := step(ctx, tc, 0); err != nil {
		t.Fatal(err)
	}
	keep(save("before").Await(ctx))
	if err := soonHealthy(); err != nil {
		t.Fatal(err)
	}

	// refused checks how something fails.
	refused := func(what string, do func() error) {
		t.Helper()
		began := time.Now()
		err := do()
		took := time.Since(began)
		if bad.works {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			return
		}
		var e *tinkex.Error
		if !errors.As(err, &e) || e.Status != http.StatusServiceUnavailable || !strings.Contains(e.Message, bad.says) || e.RetryAfter <= 0 {
			t.Errorf("%s: error %v, want a 503 that says %q and when to come again", what, err, bad.says)
		} else {
			t.Logf("%s: after %v: %v", what, took.Round(time.Millisecond), err)
		}
		for _, secret := range bad.never {
			if err != nil && strings.Contains(strings.ReplaceAll(err.Error(), s.url, ""), secret) {
				t.Errorf("%s: the client is told %q: %v", what, secret, err)
			}
		}
		if took > failsWithin {
			t.Errorf("%s: it took %v to fail", what, took)
		}
	}
	if err := bad.begin(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	during := save("during")
	body := []byte("some bytes")
	refused("upload", func() error { return rest.UploadBlob(ctx, blobOf(body), strings.NewReader(string(body))) })
	if bad.reads {
		refused("list", func() error {
			_, err := rest.ListCheckpoints(ctx, tinkex.ListOptions{})
			return err
		})
	} else if _, err := rest.ListCheckpoints(ctx, tinkex.ListOptions{}); err != nil {
		t.Errorf("the list needs no more than the database: %v", err)
	}
	if bad.works {
		if err := soonHealthy(); err != nil {
			t.Errorf("health: %v", err)
		}
	} else if healthy() == nil {
		t.Error("it says that it is healthy")
	}
	if left := outageTime(t) - time.Since(began); left > 0 {
		time.Sleep(left)
	}
	if err := bad.end(); err != nil {
		t.Fatal(err)
	}

	// What was accepted is carried out once the store is back, unless that
	// takes too long; then it says so, and the model is none the worse for it.
	saved, err := during.Await(ctx)
	var e *tinkex.Error
	switch {
	case err == nil:
		t.Logf("a save of before the end was carried out")
		keep(saved, nil)
	case errors.As(err, &e) && e.Status == http.StatusServiceUnavailable && strings.Contains(e.Message, bad.says):
		t.Logf("a save of before the end: %v", err)
		if time.Since(began) < 15*time.Second {
			t.Errorf("it did not wait for the store: %v", err)
		}
	default:
		t.Errorf("save: %v", err)
	}
	for healthy() != nil && ctx.Err() == nil {
		time.Sleep(50 * time.Millisecond)
	}
	if err := step(ctx, tc, 1); err != nil {
		t.Errorf("train: %v", err)
	}
	keep(save("after").Await(ctx))
	if err := rest.UploadBlob(ctx, blobOf(body), strings.NewReader(string(body))); err != nil {
		t.Errorf("upload: %v", err)
	}
	l.compare(t, rest, "client", func() bool { return true })
	bad.at.fsck(t)
	select {
	case <-s.done:
		t.Error("the server has ended")
	default:
	}
}
