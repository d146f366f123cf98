package server

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/url"
	"strconv"
	"time"

	"github.com/tinkex/tinkex/internal/metastore"
)

// Why a signed URL is refused.
var (
	errURLExpired  = errors.New("this URL has expired; ask for a new one")
	errURLTampered = errors.New("this URL was not signed by this server, or was changed since")
)

// signer makes URLs that need no credential, for one path each and for a
// while. Every server on the same metadata accepts them.
type signer struct {
	secret []byte
	now    func() time.Time
}

func newSigner(ctx context.Context, meta metastore.Store, now func() time.Time) (*signer, error) {
	secret, err := secretOf(ctx, meta, "urls")
	return &signer{secret, now}, err
}

func (s *signer) mac(path, expires string) string {
	h := hmac.New(sha256.New, s.secret)
	h.Write([]byte(path + "\n" + expires))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// query signs a path until an instant.
func (s *signer) query(path string, expires time.Time) string {
	e := strconv.FormatInt(expires.Unix(), 10)
	return url.Values{"expires": {e}, "signature": {s.mac(path, e)}}.Encode()
}

// verify checks the query of a request for path.
func (s *signer) verify(path string, q url.Values) error {
	e := q.Get("expires")
	if !hmac.Equal([]byte(q.Get("signature")), []byte(s.mac(path, e))) {
		return errURLTampered
	}
	at, err := strconv.ParseInt(e, 10, 64)
	if err != nil {
		return errURLTampered
	}
	if !s.now().Before(time.Unix(at, 0)) {
		return errURLExpired
	}
	return nil
}
