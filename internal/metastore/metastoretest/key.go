package metastoretest

import (
	"errors"
	"testing"

	"github.com/tinkex/tinkex/internal/metastore"
)

func testResult(t *testing.T, f fixture) {
	tests := []metastore.Result{
		{RequestID: "r1", SessionID: "s", RequestHash: "h", CreatedAt: t0, Payload: []byte(`{"a":1}`)},
		{RequestID: "r2", CreatedAt: after(1), Payload: []byte{0, 255, '\'', '?'}},
		{RequestID: "r3", CreatedAt: after(2), Payload: make([]byte, 3<<20)},
	}
	for _, r := range tests {
		f.must(f.PutResult(f.ctx, r))
		same(t, "result", value(f.Result(f.ctx, r.RequestID))(f), r)
	}
	f.must(f.PutResult(f.ctx, metastore.Result{RequestID: "r4", CreatedAt: after(3)}))
	same(t, "empty payload", len(value(f.Result(f.ctx, "r4"))(f).Payload), 0)

	// The first one stays.
	f.is(f.PutResult(f.ctx, metastore.Result{RequestID: "r1", Payload: []byte("other")}), metastore.ErrExists, "r1")
	same(t, "result", value(f.Result(f.ctx, "r1"))(f), tests[0])
	_, err := f.Result(f.ctx, "none")
	f.is(err, metastore.ErrNotFound, "none")

	same(t, "deleted", value(f.DeleteResults(f.ctx, after(2)))(f), 2)
	_, err = f.Result(f.ctx, "r2")
	f.is(err, metastore.ErrNotFound)
	value(f.Result(f.ctx, "r3"))(f)
	same(t, "deleted", value(f.DeleteResults(f.ctx, after(2)))(f), 0)
}

func testKey(t *testing.T, f fixture) {
	k := metastore.Key{ID: "k1", Hash: "aa", Owner: "alice", Name: "laptop", CreatedAt: t0}
	f.must(f.CreateKey(f.ctx, k))
	f.must(f.CreateKey(f.ctx, metastore.Key{ID: "k2", Hash: "bb", Owner: "bob", CreatedAt: after(1), RevokedAt: ptr(after(2))}))
	same(t, "key", value(f.KeyByHash(f.ctx, "aa"))(f), k)
	for _, taken := range []metastore.Key{{ID: "k1", Hash: "cc"}, {ID: "k3", Hash: "aa"}} {
		f.is(f.CreateKey(f.ctx, taken), metastore.ErrExists, "key", taken.ID)
	}
	_, err := f.KeyByHash(f.ctx, "cc")
	f.is(err, metastore.ErrNotFound, "key")

	f.must(f.RevokeKey(f.ctx, "k1", after(5)))
	f.must(f.RevokeKey(f.ctx, "k1", after(6)))
	k.RevokedAt = ptr(after(5))
	same(t, "revoked key", value(f.KeyByHash(f.ctx, "aa"))(f), k)
	f.is(f.RevokeKey(f.ctx, "none", t0), metastore.ErrNotFound, "key", "none")

	keys := value(f.Keys(f.ctx))(f)
	if len(keys) != 2 || keys[0].ID != "k2" || keys[1].ID != "k1" {
		t.Errorf("keys are %+v, want k2 k1", keys)
	}
}

func testSecret(t *testing.T, f fixture) {
	calls := 0
	create := func() ([]byte, error) { calls++; return []byte{0, 1, byte(calls)}, nil }
	for range 3 {
		same(t, "secret", value(f.Secret(f.ctx, "signing", create))(f), []byte{0, 1, 1})
	}
	same(t, "calls", calls, 1)
	same(t, "another secret", value(f.Secret(f.ctx, "other", create))(f), []byte{0, 1, 2})

	// What fails leaves nothing behind.
	broken := errors.New("no entropy")
	_, err := f.Secret(f.ctx, "third", func() ([]byte, error) { return nil, broken })
	f.is(err, broken, "third")
	same(t, "third secret", value(f.Secret(f.ctx, "third", create))(f), []byte{0, 1, 3})
}
