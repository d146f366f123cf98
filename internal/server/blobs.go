package server

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/blobstore"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/wire"
)

func (s *Server) blobOps(api huma.API) {
	extend(api, http.MethodPost, "/blobs/missing", "missing-blobs", "Which bytes have to be sent before they can be imported",
		func(ctx context.Context, in *bodyOf[wire.MissingBlobsRequest]) (*reply[tinkex.MissingBlobs], error) {
			blobs, err := blobsOf(in.Body.Blobs, "blobs")
			if err != nil {
				return nil, failure(http.StatusBadRequest, err.Error())
			}
			missing, err := s.reg.MissingBlobs(ctx, ownerOf(ctx), blobs)
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			out := tinkex.MissingBlobs{Missing: []string{}, PartBytes: registry.PartBytes}
			for _, d := range missing {
				out.Missing = append(out.Missing, d.String())
			}
			return replyWith(out), nil
		}, bodyLimit(maxImportBody))
	extend(api, http.MethodPut, "/blobs/{sha256}", "put-blob", "Send bytes to be imported within a day",
		func(ctx context.Context, in *blobUpload) (*struct{}, error) {
			d, err := blobstore.ParseDigest(in.SHA256)
			if err != nil {
				return nil, failure(http.StatusBadRequest, "sha256: "+err.Error())
			}
			return nil, s.fail(ctx, s.reg.UploadBlob(ctx, ownerOf(ctx), d, in.size, in.body))
		}, status(http.StatusNoContent), func(op *huma.Operation) {
			op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
				"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
			}}
			op.Errors = append(op.Errors, http.StatusLengthRequired, http.StatusRequestEntityTooLarge)
		})
}

// blobUpload is the input of an operation that reads its body as it comes.
type blobUpload struct {
	SHA256 string `path:"sha256"`

	body io.Reader
	size int64
}

// Resolve implements huma.Resolver.
func (u *blobUpload) Resolve(ctx huma.Context) []error {
	r, _ := humago.Unwrap(ctx)
	switch u.size = r.ContentLength; {
	case u.size < 0:
		return []error{failure(http.StatusLengthRequired, "a Content-Length is required")}
	case u.size > registry.PartBytes:
		return []error{failure(http.StatusRequestEntityTooLarge,
			fmt.Sprintf("body: %d bytes are more than %d; send larger files in parts", u.size, registry.PartBytes))}
	}
	u.body = &patientBody{ctx}
	return nil
}

// patientBody waits for a slow sender, but not for a silent one.
type patientBody struct{ ctx huma.Context }

func (b *patientBody) Read(p []byte) (int, error) {
	// Where no deadline can be set, none is needed: it is not a connection.
	_ = b.ctx.SetReadDeadline(time.Now().Add(bodyTimeout))
	return b.ctx.BodyReader().Read(p)
}

// blobsOf reads a list of blobs; field is what the request calls it.
func blobsOf(list []wire.Blob, field string) ([]metastore.Blob, error) {
	if list == nil {
		return nil, nil
	}
	out := make([]metastore.Blob, len(list))
	for i, b := range list {
		d, err := blobstore.ParseDigest(b.SHA256)
		if err != nil {
			return nil, fmt.Errorf("%s[%d].sha256: %w", field, i, err)
		}
		out[i] = metastore.Blob{Digest: d, Size: b.SizeBytes}
	}
	return out, nil
}
