package checkpoint_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tinkex/tinkex/checkpoint"
)

func TestVerifyTellsItsProgress(t *testing.T) {
	client, path := saved(t)
	d, err := checkpoint.Download(t.Context(), client, path, checkpoint.DownloadOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	var last int64
	v, err := checkpoint.VerifyWith(t.Context(), d.Dir, checkpoint.VerifyOptions{Progress: func(bytes int64) {
		if bytes < last {
			t.Errorf("%d bytes after %d", bytes, last)
		}
		last = bytes
	}})
	if err != nil || last != v.Bytes || last == 0 {
		t.Errorf("%d of %d bytes, %v", last, v.Bytes, err)
	}
}

func TestVerify(t *testing.T) {
	client, path := saved(t)
	change := func(name string, f func(b []byte) []byte) func(dir string) error {
		return func(dir string) error {
			p := filepath.Join(dir, name)
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			return os.WriteFile(p, f(b), 0o600)
		}
	}
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 1; return b }
	}
	write := func(name string) func(dir string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600) }
	}
	remove := func(name string) func(dir string) error {
		return func(dir string) error { return os.Remove(filepath.Join(dir, name)) }
	}
	both := func(fs ...func(string) error) func(string) error {
		return func(dir string) error {
			for _, f := range fs {
				if err := f(dir); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for name, tc := range map[string]struct {
		change  func(dir string) error
		found   string // the lists, formatted
		digests checkpoint.DigestSource
		err     string
	}{
		"nothing": {func(string) error { return nil }, "", checkpoint.DigestsFromServer, ""},
		"missing": {remove("adapter_config.json"), "missing adapter_config.json", checkpoint.DigestsFromServer, ""},
		"extra":   {write("notes.txt"), "extra notes.txt", checkpoint.DigestsFromServer, ""},
		"a byte of the weights": {
			change("adapter_model.safetensors", func(b []byte) []byte { return flip(len(b) - 1)(b) }),
			"changed adapter_model.safetensors: its SHA-256 is", checkpoint.DigestsFromServer, "",
		},
		"cut short": {
			change("adapter_model.safetensors", func(b []byte) []byte { return b[:len(b)-5] }),
			"changed adapter_model.safetensors: it has, damaged adapter_model.safetensors", checkpoint.DigestsFromServer, "",
		},
		"several": {
			both(remove("checkpoint_complete"), write("more"), change("adapter_config.json", flip(0))),
			"missing checkpoint_complete, changed adapter_config.json, extra more", checkpoint.DigestsFromServer, "",
		},
		"no manifest": {remove(checkpoint.ManifestFile), "", checkpoint.NoDigests, ""},
		"no manifest and a damaged header": {
			both(remove(checkpoint.ManifestFile), change("adapter_model.safetensors", flip(0))),
			"damaged adapter_model.safetensors", checkpoint.NoDigests, "",
		},
		"no manifest, not complete": {
			both(remove(checkpoint.ManifestFile), remove("checkpoint_complete")), "missing checkpoint_complete", checkpoint.NoDigests, "",
		},
		"a damaged manifest": {write(checkpoint.ManifestFile), "", "", checkpoint.ManifestFile + " is damaged"},
		"a manifest of a later format": {
			change(checkpoint.ManifestFile, func(b []byte) []byte {
				return []byte(strings.Replace(string(b), `"format": 1`, `"format": 2`, 1))
			}), "", "", "has format 2",
		},
		"a manifest that leads out": {
			change(checkpoint.ManifestFile, func(b []byte) []byte {
				return []byte(strings.Replace(string(b), "adapter_config.json", "../adapter_config.json", 1))
			}), "", "", "path leaves the directory",
		},
		"a link in a file's place": {
			both(remove("adapter_config.json"), func(dir string) error {
				return os.Symlink(filepath.Join(dir, "checkpoint_complete"), filepath.Join(dir, "adapter_config.json"))
			}), "changed adapter_config.json: it is not a plain file", checkpoint.DigestsFromServer, "",
		},
		"a link and no manifest": {
			both(remove(checkpoint.ManifestFile), remove("adapter_config.json"), func(dir string) error {
				return os.Symlink(filepath.Join(dir, "checkpoint_complete"), filepath.Join(dir, "adapter_config.json"))
			}), "damaged adapter_config.json: it is not a plain file", checkpoint.NoDigests, "",
		},
		"not a checkpoint": {func(dir string) error {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			return os.Mkdir(dir, 0o755)
		}, "", "", "it is not a checkpoint"},
		"nothing there": {os.RemoveAll, "", "", "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := checkpoint.Download(t.Context(), client, path, checkpoint.DownloadOptions{Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			if err := tc.change(d.Dir); err != nil {
				t.Fatal(err)
			}
			v, err := checkpoint.Verify(t.Context(), d.Dir)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || !strings.Contains(err.Error(), "verify "+d.Dir) {
					t.Errorf("error %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var found []string
			for _, n := range v.Missing {
				found = append(found, "missing "+n)
			}
			for _, f := range v.Changed {
				found = append(found, fmt.Sprintf("changed %s: %s", f.Name, f.Reason))
			}
			for _, f := range v.Damaged {
				found = append(found, fmt.Sprintf("damaged %s: %s", f.Name, f.Reason))
			}
			for _, n := range v.Extra {
				found = append(found, "extra "+n)
			}
			want := strings.Split(tc.found, ", ")
			if tc.found == "" {
				want = nil
			}
			if len(found) != len(want) {
				t.Fatalf("found %q, want %q", found, want)
			}
			for i := range want {
				if !strings.HasPrefix(found[i], want[i]) {
					t.Errorf("found %q, want %q", found[i], want[i])
				}
			}
			if v.Digests != tc.digests {
				t.Errorf("compared with %q, want %q", v.Digests, tc.digests)
			}
			if intact := tc.found == "" || strings.HasPrefix(tc.found, "extra"); v.Intact() != intact {
				t.Errorf("intact: %v", v.Intact())
			}
		})
	}
}
