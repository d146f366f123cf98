package crash

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tinkex/tinkex/internal/engine"
)

// blobFile is where a blob is on the disk.
func (p *place) blobFile(t *testing.T, digest string) string {
	t.Helper()
	path := filepath.Join(p.objects, "sha256", digest[:2], digest)
	if p.app == "" {
		return path
	}
	all, err := filepath.Glob(filepath.Join(path, "*"))
	if err != nil || len(all) != 1 {
		t.Fatalf("objects of %s: %v, %v", digest, all, err)
	}
	return all[0]
}

// exec changes the database behind everybody's back.
func (p *place) exec(t *testing.T, queries ...string) {
	t.Helper()
	ctx := context.Background()
	var do func(string) error
	if p.stores.DB != "" {
		c, err := pgx.Connect(ctx, p.stores.DB)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(ctx)
		if _, err := c.Exec(ctx, `SET session_replication_role = replica`); err != nil { // no constraints
			t.Fatal(err)
		}
		do = func(q string) error { _, err := c.Exec(ctx, strings.ReplaceAll(q, "x'", `'\x`)); return err }
	} else {
		db, err := sql.Open("sqlite", filepath.Join(p.stores.DataDir, "tinkex.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		do = func(q string) error { _, err := db.ExecContext(ctx, q); return err }
	}
	for _, q := range queries {
		if err := do(q); err != nil {
			t.Fatal(err)
		}
	}
}

func run(cmd *exec.Cmd) (code int, stdout, stderr string) {
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return -1, out.String(), err.Error()
	}
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

// What fsck says of a store that was damaged in every way that bytes and rows
// can be, and how it repairs it. With -v it is a transcript.
func TestDamage(t *testing.T) {
	for _, p := range pairs {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			at := p.fresh(t)
			s := at.serve(t)
			ref, _ := train(t, s.url, "tml-damage")
			s.kill()
			at.settle(t)
			at.fsck(t)
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			blob := func(step int) string { return ref.training[0][step][engine.OptimizerFile].SHA256 }

			flipped := at.blobFile(t, blob(1))
			b, err := os.ReadFile(flipped)
			must(err)
			b[len(b)/2] ^= 1
			must(os.WriteFile(flipped, b, 0o600))
			must(os.Truncate(at.blobFile(t, blob(2)), 1000))
			must(os.Remove(at.blobFile(t, blob(3))))
			blobs, err := at.stores.OpenBlobs(t.Context())
			must(err)
			w, err := blobs.Create(t.Context())
			must(err)
			_, err = w.Write([]byte("nobody needs this"))
			must(err)
			_, err = w.Commit(t.Context())
			must(err)
			must(blobs.Close())
			at.exec(t,
				`UPDATE checkpoints SET size_bytes = size_bytes + 7 WHERE name = 'step-4' AND kind = 'weights' AND lora_rank = 2`,
				`INSERT INTO checkpoint_files (checkpoint_id, position, name, size, digest)
				 VALUES (999999, 0, 'orphan', 17, x'`+blob(4)+`')`)

			check := func(wantCode int, says []string, args ...string) {
				t.Helper()
				code, out, errOut := run(at.command("fsck", args...))
				t.Logf("$ tinkex fsck %s\n%s%s(exit status %d)", strings.Join(args, " "), out, errOut, code)
				if code != wantCode {
					t.Errorf("exit status %d, want %d", code, wantCode)
				}
				for _, want := range says {
					if !strings.Contains(out+errOut, want) {
						t.Errorf("it does not say %q", want)
					}
				}
			}
			faults := []string{
				"damaged_blob: blob " + blob(1), "damaged_blob: blob " + blob(2), "its 1000 bytes have the digest",
				"missing_blob: blob " + blob(3), "wrong_size: ", "orphan_files: files of manifests that belong to no checkpoint: 1", "5 faults: 20 checkpoints",
				"1 blob, 17 B, unreferenced", "/weights/step-1", "/weights/step-2", "/weights/step-3", "/weights/step-4",
			}
			check(1, append(faults, "It deletes nothing."))
			check(1, []string{"damaged_blob: blob " + blob(2), "missing_blob", "wrong_size"}, "--quick") // which reads what has a wrong size
			check(1, append(faults[:6:6], "its bytes were moved to ", "corrected", "removed from the metadata", "3 in quarantine"), "--repair")
			check(0, []string{"clean: 17 checkpoints", "3 in quarantine"})
			at.forget(t)
			if out, err := at.collector().CombinedOutput(); err != nil {
				t.Errorf("gc: %v\n%s", err, out)
			}
			check(0, []string{"clean: 17 checkpoints"})

			// What cannot be looked at is neither clean nor damaged.
			if at.stores.DB != "" {
				at.stores.DB = "postgres://postgres:s3cret@127.0.0.1:1/gone?sslmode=disable"
			} else {
				must(os.WriteFile(filepath.Join(at.stores.DataDir, "tinkex.db"), bytes.Repeat([]byte("no database "), 1000), 0o600))
			}
			check(4, []string{"open metadata in "})
			if _, out, errOut := run(at.command("fsck")); strings.Contains(out+errOut, "s3cret") {
				t.Error(fmt.Sprint("the password is told: ", out, errOut))
			}
		})
	}
}
