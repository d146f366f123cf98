package cli

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/tinkextest"
)

func TestMirrorAndRestoreCommands(t *testing.T) {
	w := newWorld(t, "a", "b", "sampler:b")
	to := filepath.Join(t.TempDir(), "mirror")
	run(t, "checkpoint", "mirror", "--to", to, "--dry-run").want(t, exitDone, []string{w.path("a")}, []string{"Would mirror 3 checkpoints, ", "to " + to + "; 0 are there already"})
	if _, err := os.Stat(to); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dry run made %s: %v", to, err)
	}
	run(t, "checkpoint", "mirror", "verify", "--to", to).want(t, exitNotFound, nil, []string{"no mirror there", "makes one"})

	r := run(t, "checkpoint", "mirror", "--to", to, "--type", "weights").want(t, exitDone, []string{w.path("a") + "\n", w.path("b") + "\n"}, []string{"Mirrored 2 checkpoints of ", " to " + to + ", fetching ", "; 0 unchanged."})
	if strings.Count(r.stdout, "\n") != 2 {
		t.Errorf("printed %q", r.stdout)
	}
	m := decode[mirrorJSON](t, run(t, "-f", "json", "checkpoint", "mirror", "--to", to).want(t, exitDone, []string{"mirrored"}, nil))
	if m.Target != to || m.Selected != 3 || m.Unchanged != 2 || len(m.Mirrored) != 1 || !m.Mirrored[0].Verified || m.FetchedBytes != 0 || m.Failed == nil || m.Left == nil {
		t.Errorf("%+v", m)
	}
	// With nothing to do and nobody watching, nothing is said.
	if r := run(t, "checkpoint", "mirror", "--to", to).want(t, exitDone, nil, nil); r.stderr != "" {
		t.Errorf("said %q", r.stderr)
	}
	tinkexWith(t, Env{StderrTerminal: true}, "checkpoint", "mirror", "--to", to).want(t, exitDone, nil, []string{"Nothing to do: all 3 checkpoints are in " + to})
	run(t, "checkpoint", "mirror", "--to", to, "--name", "z*").want(t, exitDone, nil, []string{"No checkpoints match."})
	run(t, "checkpoint", "mirror", "verify", "--to", to).want(t, exitDone, nil, []string{to + ": intact; 3 checkpoints, "})

	run(t, "checkpoint", "delete", w.path("a"), "-y").want(t, exitDone, nil, nil)
	run(t, "checkpoint", "mirror", "--to", to, "--prune").want(t, exitDone, nil, []string{"2 unchanged, 1 removed."})
	run(t, "checkpoint", "delete", "--all-runs", "--name", "b", "-y").want(t, exitDone, nil, nil)
	run(t, "checkpoint", "mirror", "--to", to, "--prune").want(t, exitFailed, nil, []string{"keeps nothing", "--all"})

	// Another server's account is another one.
	srv := tinkextest.NewServer(t)
	t.Setenv("TINKER_BASE_URL", srv.URL)
	run(t, "checkpoint", "restore", "--from", to, "--dry-run").want(t, exitDone, []string{w.path("b")}, []string{"The mirror has 2 checkpoints of the selection, "})
	r = run(t, "checkpoint", "restore", "--from", to, "--type", "weights").want(t, exitDone, []string{":train:0/weights/b\n"}, []string{"Restored 1 checkpoint (", " had to be sent)."})
	path := strings.TrimSpace(r.stdout)
	d := decode[restoredJSON](t, run(t, "-f", "json", "checkpoint", "restore", "--from", to).want(t, exitDone, []string{"restored"}, nil))
	if len(d.Restored) != 1 || len(d.Present) != 1 || d.Present[0].TinkerPath != path || d.Present[0].Origin != w.path("b") || d.SentBytes != 0 {
		t.Errorf("%+v", d)
	}
	run(t, "checkpoint", "info", path).want(t, exitDone, []string{"restored_from", w.path("b")}, nil)
	run(t, "checkpoint", "restore", "--from", to, "--name", "z*").want(t, exitDone, nil, []string{"No checkpoints of the mirror match."})
	run(t, "checkpoint", "mirror", "--to", to).want(t, exitFailed, nil, []string{"belongs to another account", w.srv.URL, "--rebind"})
	run(t, "checkpoint", "mirror", "--to", to, "--rebind").want(t, exitDone, []string{path}, []string{"Mirrored 2 checkpoints"})
	// What import is given is looked at.
	run(t, "checkpoint", "import", to, "--name", "x").want(t, exitUsage, nil, []string{"--name is for adapters", "restore --from"})
	run(t, "checkpoint", "import", to, "--base-model", "x").want(t, exitUsage, nil, []string{"--base-model is for adapters"})
	run(t, "checkpoint", "import", to, "--run-id", "latest").want(t, exitUsage, nil, []string{"give a run's id"})
	run(t, "checkpoint", "import", to, "--ttl", "soon").want(t, exitUsage, nil, []string{"--ttl"})
	t.Setenv("TINKER_BASE_URL", tinkextest.NewServer(t).URL)
	run(t, "checkpoint", "import", to, "--type", "weights").want(t, exitDone, []string{":train:0/weights/b\n"}, []string{"Restored 2 checkpoints ("})
	i := decode[restoredJSON](t, run(t, "-f", "json", "checkpoint", "import", to).want(t, exitDone, []string{"restored"}, nil))
	if len(i.Restored) != 2 || len(i.Present) != 2 {
		t.Errorf("%+v", i)
	}
	run(t, "checkpoint", "verify", to).want(t, exitFailed, nil, []string{"it is a mirror", "mirror verify --to " + to})
	run(t, "checkpoint", "import", "ftp://x").want(t, exitFailed, nil, []string{"ftp:// is not known here"})
}

func TestMirrorCommandsWithDamage(t *testing.T) {
	w := newWorld(t, "a", "b")
	to := t.TempDir()
	run(t, "checkpoint", "mirror", "--to", to).want(t, exitDone, []string{w.path("a")}, nil)
	blobs, err := filepath.Glob(filepath.Join(to, "blobs", "sha256", "*", "*"))
	if err != nil || len(blobs) < 3 {
		t.Fatal(blobs, err)
	}
	for _, b := range blobs {
		if info, err := os.Stat(b); err == nil && info.Size() > 10_000 {
			if err := os.WriteFile(b, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	run(t, "checkpoint", "mirror", "verify", "--to", to).want(t, exitFailed, []string{"damaged  " + w.path("a") + " adapter_model.safetensors: "}, []string{"NOT INTACT", "--repair"})
	t.Setenv("TINKER_API_KEY", "tml-other") // to whom the server's own bytes are of no use
	run(t, "checkpoint", "restore", "--from", to).want(t, exitFailed, nil, []string{"the mirror's bytes of it are damaged"})
	t.Setenv("TINKER_API_KEY", tinkextest.Key)
	v := decode[mirrorVerifiedJSON](t, run(t, "-f", "json", "checkpoint", "mirror", "verify", "--to", to, "--repair").want(t, exitFailed, []string{"put_aside"}, nil))
	if v.Intact || len(v.Damaged) == 0 || len(v.PutAside) == 0 || v.Missing == nil {
		t.Errorf("%+v", v)
	}
	run(t, "checkpoint", "mirror", "--to", to).want(t, exitDone, []string{w.path("a")}, []string{"the mirror has lost bytes of it", "Mirrored 2 checkpoints"})
	run(t, "checkpoint", "mirror", "verify", "--to", to).want(t, exitDone, nil, []string{": intact; 2 checkpoints"})
}

func TestMirrorThatFailsInPart(t *testing.T) {
	w := newWorld(t, "a", "b")
	through(t, w.srv, func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/weights/a") {
			return false
		}
		http.Error(rw, `{"detail":"broken"}`, http.StatusNotImplemented)
		return true
	})
	to := t.TempDir()
	run(t, "checkpoint", "mirror", "--to", to).want(t, exitPartly, []string{w.path("b")}, []string{"Mirrored 1 checkpoint of ", "1 failed.", w.path("a")})
	m := decode[mirrorJSON](t, run(t, "-f", "json", "checkpoint", "mirror", "--to", to).want(t, exitPartly, []string{"failed"}, nil))
	if len(m.Failed) != 1 || m.Failed[0].TinkerPath != w.path("a") || m.Unchanged != 1 {
		t.Errorf("%+v", m)
	}
	run(t, "checkpoint", "mirror", "--to", to, "--name", "a").want(t, exitFailed, nil, []string{"1 failed"})
}

func TestCopyCommand(t *testing.T) {
	w := newWorld(t, "a", "b")
	before := run(t, "-f", "json", "du").want(t, exitDone, []string{"physical_bytes"}, nil)
	r := run(t, "checkpoint", "copy", w.path("a")).want(t, exitDone, []string{"/weights/a\n"}, nil)
	if strings.TrimSpace(r.stdout) == w.path("a") {
		t.Error("the copy is the source")
	}
	run(t, "checkpoint", "copy", w.path("a"), "--run-id", w.run, "--name", "best", "--ttl", "2h").want(t, exitDone, []string{w.path("best")}, nil)
	j := decode[map[string]string](t, run(t, "-f", "json", "checkpoint", "copy", w.path("a"), "--name", "c").want(t, exitDone, []string{"tinker_path"}, nil))
	if j["source_path"] != w.path("a") || !strings.HasSuffix(j["tinker_path"], "/weights/c") {
		t.Errorf("%v", j)
	}
	type du struct {
		Total tinkex.Space `json:"total"`
	}
	was := decode[du](t, before).Total
	is := decode[du](t, run(t, "-f", "json", "du").want(t, exitDone, []string{"physical_bytes"}, nil)).Total
	if is.PhysicalBytes != was.PhysicalBytes || is.Checkpoints != was.Checkpoints+3 || is.LogicalBytes <= was.LogicalBytes {
		t.Errorf("space was %+v and is %+v", was, is)
	}
	run(t, "checkpoint", "copy", w.path("a"), "--run-id", w.run, "--name", "b").want(t, exitFailed, nil, []string{"already exists"})
	run(t, "checkpoint", "copy", w.path("a"), "--run-id", w.run, "--name", "b", "--overwrite").want(t, exitDone, []string{w.path("b")}, nil)
	run(t, "checkpoint", "copy", w.path("z")).want(t, exitNotFound, nil, []string{"there is no such checkpoint"})
	t.Setenv("TINKER_API_KEY", "tml-other")
	run(t, "checkpoint", "copy", w.path("a")).want(t, exitNotFound, nil, []string{"somebody else's"})
}

func TestWrongUsageOfMirrors(t *testing.T) {
	t.Setenv("TINKER_BASE_URL", "http://127.0.0.1:9")
	t.Setenv("TINKER_API_KEY", tinkextest.Key)
	const path = "tinker://r/weights/a"
	for args, want := range map[string]string{
		"mirror":                                   "--to TARGET is required",
		"mirror /backup":                           `unexpected argument "/backup"` + "\nUsage:",
		"mirror verfy":                             `did you mean "verify"?`,
		"mirror --to x --jobs 0":                   "--jobs: 0",
		"mirror --to x --all":                      "--all is for --prune",
		"mirror --to x --prune --dry-run":          "cannot be combined",
		"mirror --to x --public --private":         "contradict",
		"mirror --to x --dry-rnu":                  "did you mean --dry-run",
		"mirror verify":                            "--to TARGET is required",
		"mirror verify --to x --jobs 0":            "--jobs: 0",
		"restore":                                  "--from TARGET is required",
		"restore --from x --jobs 0":                "--jobs: 0",
		"restore --from x --run latest":            "--run latest",
		"restore --from x --ttl never":             "--ttl",
		"restore --from x --overwrite -n":          "cannot be combined",
		"restore --from x --name [":                "pattern",
		"copy":                                     "expected 1 argument, got 0",
		"copy nonsense":                            "",
		"copy " + path + " --name a/b":             "--name",
		"copy " + path + " --overwrite":            "--run-id",
		"copy " + path + " --run-id r --project p": "contradict",
		"copy " + path + " --ttl soon":             "--ttl",
	} {
		run(t, append([]string{"checkpoint"}, strings.Fields(args)...)...).want(t, exitUsage, nil, []string{want})
	}
	run(t, "checkpoint", "mirror", "--to", "ftp://x").want(t, exitFailed, nil, []string{"ftp:// is not known here; use a directory, s3://"})
	run(t, "checkpoint", "restore", "--from", filepath.Join(t.TempDir(), "none")).want(t, exitNotFound, nil, []string{"no mirror there"})
}
