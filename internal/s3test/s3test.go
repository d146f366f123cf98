// Package s3test gives tests an S3 server of their own: versitygw over a
// temporary directory, one per test binary:
//
//	func TestMain(m *testing.M) { os.Exit(s3test.Run(m)) }
package s3test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/testproc"
)

// The server's program, and the version that is installed if it is missing
// and tests must not do without: under CI, or with TINKEX_TEST_S3=1.
const (
	program = "versitygw"
	source  = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
)

const region = "us-east-1"

var server struct {
	once     sync.Once
	endpoint string
	buckets  string // the directory whose directories are buckets
	err      error
	stop     func()
}

// Run runs a package's tests and stops the server that they used, if any.
func Run(m *testing.M) int {
	defer Stop()
	return m.Run()
}

// Stop is for packages that have more to do about their tests than Run does.
func Stop() {
	if server.stop != nil {
		server.stop()
	}
}

// Bucket makes an empty bucket and returns its URL for blobstore.Open. The
// credentials are put into the environment.
func Bucket(t testing.TB) string {
	t.Helper()
	server.once.Do(func() { server.err = start() })
	if server.err != nil {
		testproc.Missing(t, "S3", server.err)
	}
	name := "test-" + strings.ToLower(rand.Text())
	if err := os.Mkdir(Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(Dir(name)) })
	return URL(name, server.endpoint)
}

// Dir is where the server keeps a bucket's objects as files.
func Dir(bucket string) string { return filepath.Join(server.buckets, bucket) }

// URL is that of a bucket on a server that speaks S3.
func URL(bucket, endpoint string) string {
	q := url.Values{"endpoint": {endpoint}, "region": {region}, "use_path_style": {"true"}, "hostname_immutable": {"true"}}
	return "s3://" + bucket + "?" + q.Encode()
}

func start() error {
	bin, err := find()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "tinkex-s3-*")
	if err != nil {
		return err
	}
	server.stop = func() { _ = os.RemoveAll(dir) }
	server.buckets = filepath.Join(dir, "buckets")
	sidecar := filepath.Join(dir, "sidecar")
	for _, d := range []string{server.buckets, sidecar} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	port, err := testproc.FreePort()
	if err != nil {
		return err
	}
	addr := net.JoinHostPort("127.0.0.1", fmt.Sprint(port))
	access, secret := "tinkextest", rand.Text()
	// Metadata beside the files: not every file system has extended attributes.
	cmd := exec.Command(bin, "--port", addr, "--region", region, "--quiet", "--keep-alive", "posix", "--sidecar", sidecar, server.buckets)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+access, "ROOT_SECRET_KEY="+secret)
	p, err := testproc.Start(cmd)
	if err != nil {
		return err
	}
	server.stop = func() {
		_ = p.Stop()
		_ = os.RemoveAll(dir)
	}
	server.endpoint = "http://" + addr
	client := http.Client{Timeout: 2 * time.Second}
	err = p.Ready(func() error {
		resp, err := client.Get(server.endpoint) // refused for want of a signature, but answered
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	if err != nil {
		return err
	}
	return errors.Join(os.Setenv("AWS_ACCESS_KEY_ID", access), os.Setenv("AWS_SECRET_ACCESS_KEY", secret))
}

// find returns the server's program, installing it where tests need it.
func find() (string, error) {
	if bin, err := exec.LookPath(program); err == nil {
		return bin, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "tinkex-ci", "bin")
	bin, err := exec.LookPath(filepath.Join(dir, program))
	if err == nil {
		return bin, nil
	}
	if !testproc.CI() && os.Getenv("TINKEX_TEST_S3") != "1" {
		return "", fmt.Errorf("there is no %s; set TINKEX_TEST_S3=1 to have it installed in %s", program, dir)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, "go", "install", source)
	install.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0")
	if out, err := install.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s: %w: %s", source, err, out)
	}
	return exec.LookPath(filepath.Join(dir, program))
}
