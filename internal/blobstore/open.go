package blobstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/memblob" // mem://
	"gocloud.dev/gcerrors"
)

// gcsScheme has a driver in builds with the tag gcs only: Google's client
// libraries are larger than all the rest of the program and double its
// start-up time.
const gcsScheme = "gs"

// Open opens the store that a URL names:
//
//	DIR, file:///DIR     a folder, see OpenFolder
//	mem://               memory; every one is a store of its own
//	s3://BUCKET?...      S3 and what speaks its protocol
//	gs://BUCKET?...      Google Cloud Storage, in builds with the tag gcs
//	azblob://CONTAINER   Azure Blob Storage
//
// The last three are there in programs that import package drivers.
//
// A bucket must exist; the parameter prefix=PATH/ keeps to a part of it. The
// other parameters are those of gocloud.dev's drivers: for S3 foremost
// region, and for another server than Amazon's endpoint=URL with
// use_path_style=true. Credentials come from where the clients of those
// services look for them, the environment or their configuration files; a URL
// that carries any is refused. The machine's own metadata service is asked for
// AWS credentials only with AWS_EC2_METADATA_DISABLED=false in the environment.
// The bucket is asked before Open returns.
func Open(ctx context.Context, rawURL string) (Store, error) {
	scheme, _, isURL := strings.Cut(rawURL, "://")
	if !isURL {
		return OpenFolder(rawURL)
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		// The error would repeat the URL, which may carry what is secret.
		return nil, fmt.Errorf("blob store: not a URL: expected for example s3://BUCKET?region=REGION")
	}
	switch scheme {
	case fileScheme:
		dir, err := fileURLPath(u)
		if err != nil {
			return nil, fmt.Errorf("blob store %s: %w", Redact(rawURL), err)
		}
		return OpenFolder(dir)
	case "mem", "s3", "azblob", gcsScheme:
	default:
		return nil, fmt.Errorf("blob store: %q is no kind of store; expected a directory or a file, s3, azblob or gs URL", scheme)
	}
	s, err := openBucket(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("open blob store %s: %w", Redact(rawURL), err)
	}
	return s, nil
}

// fileScheme is that of URLs of directories.
const fileScheme = "file"

func fileURLPath(u *url.URL) (string, error) {
	if u.Host != "" && u.Host != "localhost" || u.Path == "" || u.RawQuery != "" || u.User != nil {
		return "", errors.New("expected file:///PATH")
	}
	path := u.Path
	if runtime.GOOS == "windows" { // /C:/...
		path = strings.TrimPrefix(path, "/")
	}
	return filepath.FromSlash(path), nil
}

func openBucket(ctx context.Context, u *url.URL) (Store, error) {
	b, err := dial(ctx, u)
	if err != nil {
		return nil, err
	}
	s := newBucket(Redact(u.String()), b, u.Scheme != "mem")
	s.sweep(ctx)
	s.sweepUploads(ctx, u)
	return s, nil
}

// OpenBucket opens the bucket that a URL as Open takes it names, for those who
// keep more than blobs there, with the same rules. The caller closes it.
func OpenBucket(ctx context.Context, rawURL string) (*blob.Bucket, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("not a URL: expected for example s3://BUCKET?region=REGION")
	}
	b, err := dial(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", Redact(rawURL), err)
	}
	return b, nil
}

// Directory returns the directory that a URL as Open takes it names; ok is
// false if it names a bucket.
func Directory(rawURL string) (dir string, ok bool, err error) {
	scheme, _, isURL := strings.Cut(rawURL, "://")
	switch {
	case !isURL:
		return rawURL, true, nil
	case scheme != fileScheme:
		return "", false, nil
	}
	u, err := url.Parse(rawURL)
	if err == nil {
		dir, err = fileURLPath(u)
	}
	if err != nil {
		return "", false, fmt.Errorf("%s: %w", Redact(rawURL), err)
	}
	return dir, true, nil
}

// dial connects to a bucket and asks whether it is there.
func dial(ctx context.Context, u *url.URL) (_ *blob.Bucket, err error) {
	if secret := carriesSecret(u); secret != "" {
		return nil, fmt.Errorf("%s: a URL is no place for credentials; use the environment, for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", secret)
	}
	if u.Host == "" && u.Scheme != "mem" {
		return nil, fmt.Errorf("no bucket named: expected %s://BUCKET", u.Scheme)
	}
	if !blob.DefaultURLMux().ValidBucketScheme(u.Scheme) {
		return nil, leftOut(u.Scheme)
	}
	driver := drivers[u.Scheme]
	if driver.Before != nil {
		if err := driver.Before(); err != nil {
			return nil, err
		}
	}
	b, err := blob.DefaultURLMux().OpenBucketURL(ctx, u)
	if err != nil {
		return nil, withoutURL(err, u)
	}
	defer func() {
		if err != nil {
			_ = b.Close()
		}
	}()
	if err := driver.check(ctx, b); err != nil {
		return nil, err
	}
	if err := probe(ctx, b); err != nil {
		if gcerrors.Code(err) == gcerrors.NotFound {
			return nil, fmt.Errorf("there is no bucket %q; create it first: %w", u.Host, err)
		}
		return nil, err
	}
	return b, nil
}

// leftOut is the error for a scheme without a driver.
func leftOut(scheme string) error {
	if scheme == gcsScheme && blob.DefaultURLMux().ValidBucketScheme("s3") {
		return errors.New("this build leaves out Google Cloud Storage; build with -tags gcs")
	}
	if blob.DefaultURLMux().ValidBucketScheme("s3") {
		return fmt.Errorf("%s:// is not known here; use a directory, s3://BUCKET?region=REGION or azblob://CONTAINER", scheme)
	}
	return fmt.Errorf("this program knows directories only; for %s:// it has to import github.com/tinkex/tinkex/checkpoint/buckets", scheme)
}

// probe asks whether the bucket can be listed.
func probe(ctx context.Context, b *blob.Bucket) error {
	ctx, cancel := within(ctx, answerTime)
	defer cancel()
	_, _, err := b.ListPage(ctx, blob.FirstPageToken, 1, &blob.ListOptions{Prefix: checkPrefix})
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// carriesSecret names the part of a URL that holds credentials.
func carriesSecret(u *url.URL) string {
	if u.User != nil {
		return "user"
	}
	for _, name := range slices.Sorted(maps.Keys(u.Query())) {
		lower := strings.ToLower(name)
		for _, word := range []string{"secret", "password", "token", "access_key", "accesskey", "account_key", "sas", "sig"} {
			if strings.Contains(lower, word) {
				return "parameter " + name
			}
		}
		if inner, err := url.Parse(u.Query().Get(name)); err == nil && inner.User != nil {
			return "parameter " + name
		}
	}
	return ""
}

// withoutURL is an error without the URL that the libraries put into theirs.
func withoutURL(err error, u *url.URL) error {
	msg := err.Error()
	for _, whole := range []string{u.String(), u.RawQuery} {
		if whole != "" {
			msg = strings.ReplaceAll(msg, whole, "...")
		}
	}
	return errors.New(msg)
}

// Redact returns what of a store's URL may be shown to anybody: everything but
// a user, and the values of parameters that are not known to be harmless.
func Redact(rawURL string) string {
	if !strings.Contains(rawURL, "://") {
		return rawURL
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return "(not a URL)"
	}
	u.User = nil
	u.Fragment = ""
	q := url.Values{}
	for name, values := range u.Query() {
		switch name {
		case "region", "prefix", "profile", "use_path_style", "hostname_immutable":
			q[name] = values
		case "endpoint":
			if e, err := url.Parse(values[0]); err == nil {
				q.Set(name, e.Scheme+"://"+e.Host)
			}
		default:
			q.Set(name, "...")
		}
	}
	u.RawQuery, _ = url.QueryUnescape(q.Encode())
	return u.String()
}
