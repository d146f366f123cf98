package cli

import (
	"strings"
	"testing"

	"github.com/tinkex/tinkex"
)

func TestLatest(t *testing.T) {
	old := newWorld(t, "a")
	tc, err := old.svc.CreateLoRATrainingClient(t.Context(), "tinkex/tiny", tinkex.LoRAOptions{Rank: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"b", "c"} {
		if _, err := tc.SaveState(t.Context(), name, tinkex.SaveOptions{}).Await(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	run2 := tc.RunID()
	c := "tinker://" + run2 + "/weights/c"
	for name, args := range map[string]string{
		"run and name": "checkpoint info tinker://latest/weights/latest",
		"run":          "checkpoint info tinker://latest/weights/c",
		"name":         "checkpoint info tinker://" + run2 + "/weights/latest",
		"publish":      "checkpoint publish tinker://latest/weights/latest",
		"set-ttl":      "checkpoint set-ttl tinker://latest/weights/latest --remove",
		"download":     "checkpoint download tinker://latest/weights/latest " + c + " -o " + t.TempDir(),
	} {
		r := run(t, strings.Fields(args)...)
		if r.code != exitDone || !strings.Contains(r.stderr, " is "+c+".\n") {
			t.Errorf("%s: exit code %d\n%s%s", name, r.code, r.stdout, r.stderr)
		}
	}
	run(t, "checkpoint", "unpublish", "tinker://latest/weights/latest").want(t, exitDone, nil, []string{"Unpublished " + c})
	run(t, "run", "info", "latest").want(t, exitDone, []string{run2}, []string{"latest is " + run2})
	run(t, "run", "info", "tinker://latest/weights/c").want(t, exitDone, []string{run2}, []string{"is " + run2})
	run(t, "checkpoint", "list", "--run-id", "latest", "--paths").want(t, exitDone, []string{c}, []string{"--run latest is " + run2})
	session, _, _ := strings.Cut(run2, ":")
	run(t, "session", "info", "latest").want(t, exitDone, []string{run2}, []string{"latest is " + session})
	run(t, "checkpoint", "info", "tinker://latest/sampler_weights/latest").want(t, exitNotFound, nil, []string{"no checkpoint of that kind"})
	run(t, "checkpoint", "info", "tinker://latest/weights/latest", "--api-key", "tml-else").want(t, exitNotFound, nil, []string{"you have no training runs"})

	// What is asked about is what it stands for.
	tty := Env{StdinTerminal: true, Stdin: strings.NewReader("n\n")}
	tinkexWith(t, tty, "checkpoint", "delete", "tinker://latest/weights/latest").want(t, exitFailed, nil, []string{"  " + c + "\n", "nothing was done"})
	run(t, "checkpoint", "delete", "-y", "tinker://latest/weights/latest", c).want(t, exitDone, nil, []string{"Deleted 1 of 1"})

	// One that is called that is meant itself.
	if _, err := tc.SaveState(t.Context(), "latest", tinkex.SaveOptions{}).Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := tc.SaveState(t.Context(), "d", tinkex.SaveOptions{}).Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := run(t, "checkpoint", "info", "tinker://"+run2+"/weights/latest").want(t, exitDone, []string{"/weights/latest"}, nil)
	if r.stderr != "" {
		t.Errorf("stderr %q", r.stderr)
	}
	// So is one in a run that may be read and not listed.
	run(t, "checkpoint", "publish", "tinker://"+run2+"/weights/latest").want(t, exitDone, nil, nil)
	run(t, "checkpoint", "info", "tinker://"+run2+"/weights/latest", "--api-key", "tml-else").want(t, exitDone, []string{"somebody else's"}, nil)
}
