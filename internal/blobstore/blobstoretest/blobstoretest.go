// Package blobstoretest holds every implementation of blobstore.Store to the
// promises of its interface.
package blobstoretest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/tinkex/tinkex/internal/blobstore"
)

// Run checks the stores that open returns. Each call of open must return a new
// and empty store, closed and cleaned up when its test ends. The checks open
// some twenty stores and put some tens of megabytes into them altogether.
//
// Stores may keep times to the second: the checks that depend on times notice
// and take longer. They take the clocks of store and test to agree.
func Run(t *testing.T, open func(t *testing.T) blobstore.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, blobstore.Store)
	}{
		{"RoundTrip", testRoundTrip},
		{"Ranges", testRanges},
		{"RangesOfEmptyBlob", testRangesOfEmptyBlob},
		{"BigBlob", testBigBlob},
		{"ReaderInterfaces", testReaderInterfaces},
		{"Absent", testAbsent},
		{"StagedIsInvisible", testStagedIsInvisible},
		{"Abort", testAbort},
		{"WriterIsSpent", testWriterIsSpent},
		{"CommitAgain", testCommitAgain},
		{"PutFile", testPutFile},
		{"WritersOfTheSameBytes", testWritersOfTheSameBytes},
		{"All", testAll},
		{"AllWhileDeleting", testAllWhileDeleting},
		{"Delete", testDelete},
		{"DeleteAgainstCommit", testDeleteAgainstCommit},
		{"Quarantine", testQuarantine},
		{"Concurrency", testConcurrency},
		{"Canceled", testCanceled},
		{"CommitCanceled", testCommitCanceled},
		{"ReadCanceled", testReadCanceled},
		{"Check", testCheck},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// Put commits data and returns what the store says about it.
func Put(t testing.TB, s blobstore.Store, data []byte) blobstore.Info {
	t.Helper()
	info, err := put(t.Context(), s, data)
	if err != nil {
		t.Fatal(err)
	}
	if want := blobstore.Digest(sha256.Sum256(data)); info.Digest != want {
		t.Fatalf("committed %s, want %s", info.Digest, want)
	}
	if info.Size != int64(len(data)) {
		t.Fatalf("committed %d bytes, want %d", info.Size, len(data))
	}
	return info
}

func put(ctx context.Context, s blobstore.Store, data []byte) (blobstore.Info, error) {
	w, err := s.Create(ctx)
	if err != nil {
		return blobstore.Info{}, err
	}
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		return blobstore.Info{}, err
	}
	return w.Commit(ctx)
}

// Get reads a whole blob.
func Get(t testing.TB, s blobstore.Store, d blobstore.Digest) []byte {
	t.Helper()
	data, err := get(t.Context(), s, d, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func get(ctx context.Context, s blobstore.Store, d blobstore.Digest, offset, length int64) ([]byte, error) {
	r, err := s.OpenRange(ctx, d, offset, length)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	return data, err
}

// random returns n bytes that depend on the seed alone.
func random(seed, n int) []byte {
	var key [32]byte
	copy(key[:], fmt.Sprint(seed))
	data := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(data)
	return data
}

// list returns the blobs that All yields, and fails on one yielded twice.
func list(t *testing.T, s blobstore.Store) map[blobstore.Digest]blobstore.Info {
	t.Helper()
	all := make(map[blobstore.Digest]blobstore.Info)
	for info, err := range s.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := all[info.Digest]; twice {
			t.Errorf("All yields %s twice", info.Digest)
		}
		all[info.Digest] = info
	}
	return all
}

// tick returns how long to wait for the store's next point in time, going by
// the one it has put on a blob.
func tick(info blobstore.Info) time.Duration {
	if info.ModTime.Nanosecond() == 0 {
		return 2 * time.Second
	}
	return 20 * time.Millisecond
}

func sameInfo(a, b blobstore.Info) bool {
	return a.Digest == b.Digest && a.Size == b.Size && a.ModTime.Equal(b.ModTime)
}

func testRoundTrip(t *testing.T, s blobstore.Store) {
	for _, size := range []int{0, 1, 511, 512, 513, 1<<16 - 1, 1 << 16, 1<<16 + 1, 3 << 20} {
		data := random(size, size)
		start := time.Now()
		info := Put(t, s, data)
		if off := info.ModTime.Sub(start); off < -2*time.Second || off > time.Minute {
			t.Errorf("%d bytes: modified %v after they were committed", size, off)
		}
		if got := Get(t, s, info.Digest); !bytes.Equal(got, data) {
			t.Errorf("%d bytes: read %d others", size, len(got))
		}
		stat, err := s.Stat(t.Context(), info.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if !sameInfo(stat, info) {
			t.Errorf("%d bytes: Stat says %+v, Commit said %+v", size, stat, info)
		}
	}
}

func testRanges(t *testing.T, s blobstore.Store) {
	data := random(1, 1000)
	d := Put(t, s, data).Digest
	for _, test := range []struct {
		offset, length int64
		want           []byte // nil: an error
	}{
		{0, -1, data},
		{0, 1000, data},
		{0, 0, []byte{}},
		{0, 1, data[:1]},
		{1, 1, data[1:2]},
		{500, -1, data[500:]},
		{500, 250, data[500:750]},
		{999, 1, data[999:]},
		{999, -1, data[999:]},
		{1000, 0, []byte{}},
		{1000, -1, []byte{}},
		{1000, 1, nil},
		{1001, 0, nil},
		{1001, -1, nil},
		{0, 1001, nil},
		{999, 2, nil},
		{-1, 1, nil},
		{-1, -1, nil},
		{1, 1<<63 - 1, nil},
		{1<<63 - 1, 1, nil},
		{1<<63 - 1, 1<<63 - 1, nil},
	} {
		got, err := get(t.Context(), s, d, test.offset, test.length)
		switch {
		case test.want == nil && err == nil:
			t.Errorf("range %d+%d: %d bytes, want an error", test.offset, test.length, len(got))
		case test.want == nil && errors.Is(err, blobstore.ErrNotFound):
			t.Errorf("range %d+%d: %v: the blob is there", test.offset, test.length, err)
		case test.want != nil && err != nil:
			t.Errorf("range %d+%d: %v", test.offset, test.length, err)
		case !bytes.Equal(got, test.want):
			t.Errorf("range %d+%d: %d wrong bytes", test.offset, test.length, len(got))
		}
	}
}

func testRangesOfEmptyBlob(t *testing.T, s blobstore.Store) {
	d := Put(t, s, nil).Digest
	for _, length := range []int64{0, -1} {
		if got, err := get(t.Context(), s, d, 0, length); err != nil || len(got) > 0 {
			t.Errorf("range 0+%d: %d bytes, error %v", length, len(got), err)
		}
	}
	for _, r := range [][2]int64{{0, 1}, {1, 0}, {1, -1}} {
		if _, err := get(t.Context(), s, d, r[0], r[1]); err == nil {
			t.Errorf("range %d+%d: no error", r[0], r[1])
		}
	}
}

func testBigBlob(t *testing.T, s blobstore.Store) {
	data := random(2, 8<<20+12345)
	w, err := s.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 1+rand.IntN(300_000))
		if m, err := w.Write(rest[:n]); err != nil || m != n {
			t.Fatalf("wrote %d of %d bytes: %v", m, n, err)
		}
		rest = rest[n:]
	}
	info, err := w.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := Get(t, s, info.Digest); !bytes.Equal(got, data) {
		t.Fatal("the bytes differ")
	}
	for range 50 {
		offset := rand.IntN(len(data))
		length := rand.IntN(len(data) - offset + 1)
		got, err := get(t.Context(), s, info.Digest, int64(offset), int64(length))
		if err != nil || !bytes.Equal(got, data[offset:offset+length]) {
			t.Fatalf("range %d+%d: %d bytes, error %v", offset, length, len(got), err)
		}
	}
}

func testReaderInterfaces(t *testing.T, s blobstore.Store) {
	data := random(3, 100_000)
	d := Put(t, s, data).Digest
	for _, test := range []struct{ offset, length int }{{0, 100_000}, {0, 0}, {777, 4096}, {99_999, 1}} {
		want := data[test.offset : test.offset+test.length]
		open := func() io.ReadCloser {
			r, err := s.OpenRange(t.Context(), d, int64(test.offset), int64(test.length))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r.Close() })
			return r
		}
		if err := iotest.TestReader(open(), want); err != nil {
			t.Errorf("range %d+%d: %v", test.offset, test.length, err)
		}
		// What has been read is not written again.
		r := open()
		head := make([]byte, test.length/3)
		if _, err := io.ReadFull(r, head); err != nil {
			t.Fatal(err)
		}
		var tail bytes.Buffer
		if _, err := io.Copy(&tail, r); err != nil {
			t.Fatal(err)
		}
		if got := append(head, tail.Bytes()...); !bytes.Equal(got, want) {
			t.Errorf("range %d+%d: read and copied %d other bytes", test.offset, test.length, len(got))
		}
		if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("range %d+%d: read %d bytes behind the end, error %v", test.offset, test.length, n, err)
		}
		// Readers that give random access count from the start of the range.
		if at, ok := open().(io.ReaderAt); ok && test.length > 0 {
			last := make([]byte, 2)
			n, err := at.ReadAt(last, int64(test.length-1))
			if n != 1 || err != io.EOF || last[0] != want[test.length-1] {
				t.Errorf("range %d+%d: ReadAt across the end: %d bytes, error %v", test.offset, test.length, n, err)
			}
		}
	}
}

func testAbsent(t *testing.T, s blobstore.Store) {
	Put(t, s, []byte("present"))
	absent := blobstore.Digest(sha256.Sum256([]byte("absent")))
	if _, err := s.Stat(t.Context(), absent); !errors.Is(err, blobstore.ErrNotFound) {
		t.Errorf("Stat: %v", err)
	}
	for _, r := range [][2]int64{{0, -1}, {0, 0}, {5, 5}} {
		if _, err := get(t.Context(), s, absent, r[0], r[1]); !errors.Is(err, blobstore.ErrNotFound) {
			t.Errorf("OpenRange: %v", err)
		}
	}
	if ok, err := s.Delete(t.Context(), absent, time.Now().Add(time.Hour)); ok || err != nil {
		t.Errorf("Delete: %v, %v", ok, err)
	}
}

func testPutFile(t *testing.T, s blobstore.Store) {
	data := random(5, 300_000)
	d, size := blobstore.Digest(sha256.Sum256(data)), int64(len(data))
	path := filepath.Join(t.TempDir(), "file")
	for range 2 { // the second time it is there already
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := blobstore.PutFile(t.Context(), s, path, d, size); err != nil {
			t.Fatal(err)
		}
		if got := Get(t, s, d); !bytes.Equal(got, data) {
			t.Errorf("%d bytes came back, and not the same", len(got))
		}
		if all := list(t, s); len(all) != 1 {
			t.Errorf("All yields %d blobs", len(all))
		}
	}
	other := blobstore.Digest(sha256.Sum256(data[1:]))
	if err := os.WriteFile(path, data[1:], 0o600); err != nil {
		t.Fatal(err)
	}
	for name, put := range map[string]func() error{
		"of another size":   func() error { return blobstore.PutFile(t.Context(), s, path, other, size) },
		"that is no file":   func() error { return blobstore.PutFile(t.Context(), s, filepath.Dir(path), other, size-1) },
		"that is not there": func() error { return blobstore.PutFile(t.Context(), s, path+"x", other, size-1) },
	} {
		if err := put(); err == nil {
			t.Errorf("a file %s became a blob", name)
		}
	}
	if _, err := s.Stat(t.Context(), other); !errors.Is(err, blobstore.ErrNotFound) {
		t.Errorf("after failures: %v", err)
	}
}

func testStagedIsInvisible(t *testing.T, s blobstore.Store) {
	data := random(4, 200_000)
	d := blobstore.Digest(sha256.Sum256(data))
	w, err := s.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), d); !errors.Is(err, blobstore.ErrNotFound) {
		t.Errorf("Stat of staged bytes: %v", err)
	}
	if all := list(t, s); len(all) > 0 {
		t.Errorf("All yields %d staged blobs", len(all))
	}
}

func testAbort(t *testing.T, s blobstore.Store) {
	data := random(5, 1000)
	w, err := s.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.Abort(); err != nil {
			t.Errorf("Abort: %v", err)
		}
	}
	if all := list(t, s); len(all) > 0 {
		t.Errorf("%d blobs after Abort", len(all))
	}

	w, err = s.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	info, err := w.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Abort(); err != nil {
		t.Errorf("Abort after Commit: %v", err)
	}
	if got := Get(t, s, info.Digest); !bytes.Equal(got, data) {
		t.Error("Abort after Commit harmed the blob")
	}
}

func testWriterIsSpent(t *testing.T, s blobstore.Store) {
	end := map[string]func(blobstore.Writer) error{
		"Abort":  func(w blobstore.Writer) error { return w.Abort() },
		"Commit": func(w blobstore.Writer) error { _, err := w.Commit(t.Context()); return err },
	}
	for name, end := range end {
		w, err := s.Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := end(w); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("more")); err == nil {
			t.Errorf("Write after %s: no error", name)
		}
		if _, err := w.Commit(t.Context()); err == nil {
			t.Errorf("Commit after %s: no error", name)
		}
	}
}

func testCommitAgain(t *testing.T, s blobstore.Store) {
	data := random(6, 5000)
	first := Put(t, s, data)
	time.Sleep(tick(first))
	second := Put(t, s, data)
	if !second.ModTime.After(first.ModTime) {
		t.Errorf("committed again: modified %v, before that %v", second.ModTime, first.ModTime)
	}
	all := list(t, s)
	if len(all) != 1 || !sameInfo(all[first.Digest], second) {
		t.Errorf("All yields %v, want only %v", all, second)
	}
	if got := Get(t, s, first.Digest); !bytes.Equal(got, data) {
		t.Error("the bytes differ")
	}
}

func testWritersOfTheSameBytes(t *testing.T, s blobstore.Store) {
	data := random(7, 5000)
	var writers [3]blobstore.Writer
	for i := range writers {
		w, err := s.Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer w.Abort()
		writers[i] = w
	}
	for _, part := range [][]byte{data[:1000], data[1000:]} {
		for _, w := range writers {
			if _, err := w.Write(part); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, w := range writers {
		info, err := w.Commit(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := Get(t, s, info.Digest); !bytes.Equal(got, data) {
			t.Error("the bytes differ")
		}
	}
	if all := list(t, s); len(all) != 1 {
		t.Errorf("%d blobs", len(all))
	}
}

func testAll(t *testing.T, s blobstore.Store) {
	if all := list(t, s); len(all) > 0 {
		t.Fatalf("a new store has %d blobs", len(all))
	}
	want := make(map[blobstore.Digest]blobstore.Info)
	for i := range 100 {
		info := Put(t, s, random(i, i))
		want[info.Digest] = info
	}
	got := list(t, s)
	if len(got) != len(want) {
		t.Errorf("All yields %d blobs, want %d", len(got), len(want))
	}
	for d, info := range want {
		if !sameInfo(got[d], info) {
			t.Errorf("All yields %+v, want %+v", got[d], info)
		}
	}
	n := 0
	for _, err := range s.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 10 {
			break
		}
	}
	if n != 10 {
		t.Errorf("the walk ended after %d blobs", n)
	}
}

func testAllWhileDeleting(t *testing.T, s blobstore.Store) {
	for i := range 60 {
		Put(t, s, random(i, 10+i))
	}
	n := 0
	for info, err := range s.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		if ok, err := s.Delete(t.Context(), info.Digest, info.ModTime.Add(time.Hour)); !ok || err != nil {
			t.Fatalf("Delete: %v, %v", ok, err)
		}
	}
	if n != 60 {
		t.Errorf("saw %d blobs", n)
	}
	if all := list(t, s); len(all) > 0 {
		t.Errorf("%d blobs remain", len(all))
	}
}

func testDelete(t *testing.T, s blobstore.Store) {
	data := random(8, 100)
	info := Put(t, s, data)
	other := Put(t, s, random(9, 100))
	for _, before := range []time.Time{{}, info.ModTime.Add(-time.Hour), info.ModTime} {
		if ok, err := s.Delete(t.Context(), info.Digest, before); ok || err != nil {
			t.Errorf("Delete before %v of a blob of %v: %v, %v", before, info.ModTime, ok, err)
		}
		if got := Get(t, s, info.Digest); !bytes.Equal(got, data) {
			t.Error("the bytes differ")
		}
	}
	for _, want := range []bool{true, false} {
		if ok, err := s.Delete(t.Context(), info.Digest, info.ModTime.Add(time.Hour)); ok != want || err != nil {
			t.Errorf("Delete: %v, %v, want %v", ok, err, want)
		}
		if _, err := s.Stat(t.Context(), info.Digest); !errors.Is(err, blobstore.ErrNotFound) {
			t.Errorf("Stat after Delete: %v", err)
		}
	}
	if _, err := s.Stat(t.Context(), other.Digest); err != nil {
		t.Errorf("another blob: %v", err)
	}
	Put(t, s, data)
	if got := Get(t, s, info.Digest); !bytes.Equal(got, data) {
		t.Error("the bytes of a blob that was deleted and committed again differ")
	}
}

func testQuarantine(t *testing.T, s blobstore.Store) {
	data := random(10, 100)
	put := Put(t, s, data)
	other := Put(t, s, random(11, 100))
	info, err := s.Stat(t.Context(), put.Digest)
	if err != nil {
		t.Fatal(err)
	}
	for name, seen := range map[string]blobstore.Info{
		"another size": {Digest: info.Digest, Size: info.Size - 1, ModTime: info.ModTime},
		"another time": {Digest: info.Digest, Size: info.Size, ModTime: info.ModTime.Add(-time.Hour)},
	} {
		if where, err := s.Quarantine(t.Context(), seen); where != "" || err != nil {
			t.Errorf("%s: %q, %v", name, where, err)
		}
		if got := Get(t, s, info.Digest); !bytes.Equal(got, data) {
			t.Errorf("%s: the bytes differ", name)
		}
	}
	places := map[string]bool{}
	for range 2 {
		where, err := s.Quarantine(t.Context(), info)
		if where == "" || err != nil || places[where] {
			t.Errorf("Quarantine: %q, %v; taken are %v", where, err, places)
		}
		places[where] = true
		if _, err := s.Stat(t.Context(), info.Digest); !errors.Is(err, blobstore.ErrNotFound) {
			t.Errorf("Stat in quarantine: %v", err)
		}
		if _, err := get(t.Context(), s, info.Digest, 0, -1); !errors.Is(err, blobstore.ErrNotFound) {
			t.Errorf("OpenRange in quarantine: %v", err)
		}
		if all := list(t, s); len(all) != 1 {
			t.Errorf("%d blobs are left, want 1", len(all))
		}
		if _, err := s.Quarantine(t.Context(), info); !errors.Is(err, blobstore.ErrNotFound) {
			t.Errorf("once more: %v", err)
		}
		Put(t, s, data)
		if got := Get(t, s, info.Digest); !bytes.Equal(got, data) {
			t.Error("the bytes of a blob that was committed again differ")
		}
		if info, err = s.Stat(t.Context(), info.Digest); err != nil {
			t.Fatal(err)
		}
	}
	if got := Get(t, s, other.Digest); len(got) != 100 {
		t.Error("another blob is not what it was")
	}
}

// testDeleteAgainstCommit has old blobs committed again just when the garbage
// collector is about to delete them.
func testDeleteAgainstCommit(t *testing.T, s blobstore.Store) {
	probe := Put(t, s, []byte("probe"))
	rounds, blobs := 20, 16
	if tick(probe) >= time.Second {
		rounds = 2
	}
	ctx := t.Context()
	for round := range rounds {
		data := make([][]byte, blobs)
		for i := range data {
			data[i] = random(1000*round+i, 100)
			Put(t, s, data[i])
		}
		time.Sleep(tick(probe))
		before := time.Now()
		if tick(probe) >= time.Second {
			before = before.Truncate(time.Second)
		}
		var wg sync.WaitGroup
		for _, data := range data {
			d := blobstore.Digest(sha256.Sum256(data))
			wg.Go(func() {
				if _, err := s.Delete(ctx, d, before); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if _, err := put(ctx, s, data); err != nil {
					t.Error(err)
				}
				if _, err := s.Stat(ctx, d); err != nil {
					t.Errorf("after a Commit in the face of a Delete: %v", err)
				}
			})
		}
		wg.Wait()
		for _, data := range data {
			if got := Get(t, s, sha256.Sum256(data)); !bytes.Equal(got, data) {
				t.Error("the bytes differ")
			}
		}
	}
}

// testConcurrency has everything happen at once to a few blobs. Readers may
// find a blob absent, but never anything else in its place.
func testConcurrency(t *testing.T, s blobstore.Store) {
	const blobs, workers, turns = 5, 8, 30
	var data [blobs][]byte
	for i := range data {
		data[i] = random(i, 50_000*i)
	}
	ctx := t.Context()
	var wg sync.WaitGroup
	for worker := range workers {
		rnd := rand.New(rand.NewPCG(1, uint64(worker)))
		wg.Go(func() {
			for range turns {
				want := data[rnd.IntN(blobs)]
				d := blobstore.Digest(sha256.Sum256(want))
				var err error
				switch rnd.IntN(5) {
				case 0, 1:
					_, err = put(ctx, s, want)
				case 2:
					offset := rnd.IntN(len(want) + 1)
					var got []byte
					got, err = get(ctx, s, d, int64(offset), -1)
					if err == nil && !bytes.Equal(got, want[offset:]) {
						t.Errorf("read %d other bytes", len(got))
					}
				case 3:
					for info, walkErr := range s.All(ctx) {
						if err = walkErr; err != nil {
							break
						}
						if info.Digest == d && info.Size != int64(len(want)) {
							t.Errorf("All yields %d bytes of %d", info.Size, len(want))
						}
					}
				case 4:
					if _, derr := s.Delete(ctx, d, time.Now()); derr != nil && !busy(derr) {
						t.Errorf("delete: %v", derr)
					}
				}
				if err != nil && !errors.Is(err, blobstore.ErrNotFound) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for d, info := range list(t, s) {
		if got := Get(t, s, d); blobstore.Digest(sha256.Sum256(got)) != d || int64(len(got)) != info.Size {
			t.Errorf("blob %s is damaged", d)
		}
	}
}

func testCanceled(t *testing.T, s blobstore.Store) {
	info := Put(t, s, random(10, 1000))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range map[string]func() error{
		"Create":    func() error { _, err := s.Create(ctx); return err },
		"OpenRange": func() error { _, err := get(ctx, s, info.Digest, 0, -1); return err },
		"Stat":      func() error { _, err := s.Stat(ctx, info.Digest); return err },
		"Delete":    func() error { _, err := s.Delete(ctx, info.Digest, time.Now().Add(time.Hour)); return err },
		"Check":     func() error { return s.Check(ctx) },
		"All": func() error {
			var last error
			n := 0
			for _, err := range s.All(ctx) {
				last = err
				n++
			}
			if n > 1 {
				return fmt.Errorf("the walk went on for %d steps", n)
			}
			return last
		},
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := s.Stat(t.Context(), info.Digest); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func testCommitCanceled(t *testing.T, s blobstore.Store) {
	w, err := s.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := w.Write(random(11, 1000)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Commit(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Commit: error %v", err)
	}
	if err := w.Abort(); err != nil {
		t.Errorf("Abort: %v", err)
	}
	if all := list(t, s); len(all) > 0 {
		t.Errorf("%d blobs", len(all))
	}
}

func testReadCanceled(t *testing.T, s blobstore.Store) {
	d := Put(t, s, random(12, 4<<20)).Digest
	for name, read := range map[string]func(io.Reader) error{
		"Read":    func(r io.Reader) error { _, err := io.Copy(io.Discard, struct{ io.Reader }{r}); return err },
		"WriteTo": func(r io.Reader) error { _, err := io.Copy(struct{ io.Writer }{io.Discard}, r); return err },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r, err := s.OpenRange(ctx, d, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := read(r); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func testCheck(t *testing.T, s blobstore.Store) {
	for range 3 {
		if err := s.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if all := list(t, s); len(all) > 0 {
		t.Errorf("Check left %d blobs behind", len(all))
	}
}
