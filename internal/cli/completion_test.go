package cli

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/tinkextest"
)

// completions are what a shell is offered for the last of the words.
func completions(t *testing.T, words ...string) []string {
	t.Helper()
	r := tinkexWith(t, Env{CompletionTimeout: patience}, append([]string{"__completeNoDesc"}, words...)...).want(t, exitDone, []string{":"}, nil)
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	return lines[:len(lines)-1] // the last one is the directive
}

func TestCompletion(t *testing.T) {
	noProfiles(t)
	w := newWorld(t, "a", "b", "sampler:s")
	login(t, tinkextest.Key, "--profile", "lab", "--base-url", w.srv.URL, "--no-check")
	session, _, _ := strings.Cut(w.run, ":")
	p := "tinker://" + w.run
	for name, tc := range map[string]struct {
		words []string
		want  []string
	}{
		"commands":         {[]string{"checkpoint", "pub"}, []string{"publish"}},
		"runs of paths":    {[]string{"checkpoint", "info", ""}, []string{"tinker://latest/", p + "/"}},
		"scheme":           {[]string{"checkpoint", "info", "tin"}, []string{"tinker://latest/", p + "/"}},
		"no path":          {[]string{"checkpoint", "info", "x"}, nil},
		"kinds":            {[]string{"checkpoint", "info", p + "/"}, []string{p + "/weights/", p + "/sampler_weights/"}},
		"a kind":           {[]string{"checkpoint", "info", p + "/s"}, []string{p + "/sampler_weights/"}},
		"names":            {[]string{"checkpoint", "info", p + "/weights/"}, []string{p + "/weights/latest", p + "/weights/b", p + "/weights/a"}},
		"a name":           {[]string{"checkpoint", "download", p + "/weights/a"}, []string{p + "/weights/a"}},
		"of the newest":    {[]string{"checkpoint", "info", "tinker://latest/sampler_weights/"}, []string{"tinker://latest/sampler_weights/latest", "tinker://latest/sampler_weights/s"}},
		"one path only":    {[]string{"checkpoint", "info", p + "/weights/a", ""}, nil},
		"several paths":    {[]string{"checkpoint", "delete", p + "/weights/a", p + "/weights/"}, []string{p + "/weights/latest", p + "/weights/b"}},
		"unknown run":      {[]string{"checkpoint", "info", "tinker://none/"}, nil},
		"run":              {[]string{"checkpoint", "list", "--run", ""}, []string{"latest", w.run}},
		"run of = form":    {[]string{"checkpoint", "list", "--run-id=" + w.run[:4]}, []string{w.run}},
		"run info":         {[]string{"run", "info", ""}, []string{"latest", w.run}},
		"run info by path": {[]string{"run", "info", "tinker"}, []string{"tinker://latest/", p + "/"}},
		"session":          {[]string{"session", "info", session[:3]}, []string{session}},
		"type":             {[]string{"checkpoint", "list", "--type", ""}, []string{"weights", "sampler_weights"}},
		"name":             {[]string{"checkpoint", "list", "--name", ""}, []string{"s", "b", "a"}},
		"name in a run":    {[]string{"checkpoint", "prune", "--run", "latest", "--name=b"}, []string{"b"}},
		"name in no run":   {[]string{"checkpoint", "delete", "--run-id", "none", "--name", ""}, nil},
		"a name to give":   {[]string{"checkpoint", "copy", p + "/weights/a", "--name", ""}, nil},
		"base model":       {[]string{"checkpoint", "list", "--base-model", "ti"}, []string{tinkextest.BaseModel}},
		"format":           {[]string{"run", "list", "-f", ""}, []string{"table", "json"}},
		"order":            {[]string{"checkpoint", "list", "--sort", ""}, []string{"created", "size", "name", "expires"}},
		"profile":          {[]string{"run", "list", "--profile", ""}, []string{"lab"}},
		"directories":      {[]string{"checkpoint", "verify", ""}, nil},
		"profile use":      {[]string{"profile", "use", ""}, []string{"lab"}},
		"by a profile":     {[]string{"--profile", "lab", "run", "info", "latest"}, []string{"latest"}},
		"another's":        {[]string{"--api-key", "tml-else", "run", "info", ""}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := completions(t, tc.words...); !slices.Equal(got, tc.want) {
				t.Errorf("offered %q, want %q", got, tc.want)
			}
		})
	}
	sessions, err := w.svc.RestClient().ListSessions(t.Context(), tinkex.ListOptions{})
	if err != nil || !slices.Equal(sessions.Sessions, []string{session}) {
		t.Errorf("completion made sessions: %v, %v", sessions, err)
	}
}

func TestCompletionFailsInSilence(t *testing.T) {
	noProfiles(t)
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	defer refusing.Close()
	released := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-released:
		case <-r.Context().Done():
		}
	}))
	defer silent.Close()
	defer close(released)
	for name, args := range map[string][]string{
		"no key":         {},
		"no server":      {"--api-key", "tml-x", "--base-url", "http://127.0.0.1:1"},
		"broken server":  {"--api-key", "tml-x", "--base-url", refusing.URL, "-v"},
		"silent server":  {"--api-key", "tml-x", "--base-url", silent.URL},
		"not a server":   {"--api-key", "tml-x", "--base-url", "nonsense"},
		"not a key":      {"--api-key", "x"},
		"not a profile":  {"--profile", "none"},
		"another format": {"-f", "xml"},
	} {
		for _, words := range [][]string{{"checkpoint", "info", "tinker://x/"}, {"checkpoint", "list", "--run", ""}} {
			r := tinkexWith(t, Env{CompletionTimeout: 100 * time.Millisecond}, slices.Concat([]string{"__complete"}, args, words)...)
			if strings.Contains(r.stdout, "tinker") || strings.Contains(r.stderr, "tinkex:") || strings.Contains(r.stderr, "level=") {
				t.Errorf("%s: %q, %q", name, r.stdout, r.stderr)
			}
		}
	}
}

// commandDir has a tinkex in it that is this test's own binary.
func commandDir(t *testing.T) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the shells are Unix's")
	}
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\n" + asCommand + "=1 exec '" + self + "' \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "tinkex"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// shell runs a script in a shell that finds tinkex, or skips the test.
func shell(t *testing.T, name, script string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("there is no %s here", name)
	}
	cmd := exec.CommandContext(t.Context(), path, append([]string{"-c", script}, args...)...)
	// Of a locale that is not installed the shell complains.
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+commandDir(t)+string(os.PathListSeparator)+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return strings.TrimSpace(string(out))
}

// bashDriver completes a line as readline would: it takes it apart at spaces,
// colons and equal signs, and puts what it gets in the place of the last part.
const bashDriver = `
for name in _init_completion _get_comp_words_by_ref _filedir; do unset -f $name; done
if [[ -n $1 ]]; then source "$1" || true; fi
compopt() { :; }
source <(tinkex completion bash)
shift
for line; do
  COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9 COMP_KEY=9 COMP_WORDS=() word=
  for ((i = 0; i < ${#line}; i++)); do
    c=${line:i:1}
    case $c in
    ' ') if [[ -n $word ]]; then COMP_WORDS+=("$word"); fi; word= ;;
    : | =) if [[ -n $word && $word != [:=]* ]]; then COMP_WORDS+=("$word"); word=; fi; word+=$c ;;
    *) if [[ $word == [:=]* ]]; then COMP_WORDS+=("$word"); word=; fi; word+=$c ;;
    esac
  done
  COMP_WORDS+=("$word") COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
  if [[ $word == [:=] ]]; then word=; fi
  __start_tinkex
  for reply in ${COMPREPLY[@]+"${COMPREPLY[@]}"}; do
    echo "${line%"$word"}$reply"
  done
done
`

func TestCompletionInBash(t *testing.T) {
	noProfiles(t)
	w := newWorld(t, "a", "sampler:s")
	p := "tinker://" + w.run
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(dir+"/out", 0o700), os.WriteFile(dir+"/other", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	packages := map[string]string{"by itself": ""}
	if path := "/usr/share/bash-completion/bash_completion"; exists(path) {
		packages["with bash-completion"] = path
	}
	for name, source := range packages {
		t.Run(name, func(t *testing.T) {
			got := shell(t, "bash", bashDriver, "bash", source,
				"tinkex checkpoint in",
				"tinkex checkpoint info t",
				"tinkex checkpoint info "+p[:len(p)-1],
				"tinkex checkpoint info "+p+"/w",
				"tinkex checkpoint info "+p+"/weights/a",
				"tinkex checkpoint info tinker:",
				"tinkex checkpoint list --run "+w.run[:len(w.run)-2],
				"tinkex run list -f j",
				"tinkex checkpoint download -o "+dir+"/o",
				"tinkex checkpoint download --output="+dir+"/o",
			)
			want := strings.Join([]string{
				"tinkex checkpoint info",
				"tinkex checkpoint info tinker://latest/",
				"tinkex checkpoint info " + p + "/",
				"tinkex checkpoint info " + p + "/",
				"tinkex checkpoint info " + p + "/weights/",
				"tinkex checkpoint info " + p + "/weights/a",
				"tinkex checkpoint info tinker://latest/",
				"tinkex checkpoint info " + p + "/",
				"tinkex checkpoint list --run " + w.run,
				"tinkex run list -f json",
				"tinkex checkpoint download -o " + dir + "/out",
				"tinkex checkpoint download --output=" + dir + "/out",
			}, "\n")
			if got != want {
				t.Errorf("completed to\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestCompletionInFish(t *testing.T) {
	noProfiles(t)
	w := newWorld(t, "a")
	got := shell(t, "fish", `tinkex completion fish | source; complete -C "tinkex checkpoint info tinker://`+w.run+`/weights/" | string split -f1 \t`)
	want := "tinker://" + w.run + "/weights/"
	if got != want+"latest\n"+want+"a" && got != want+"a\n"+want+"latest" {
		t.Errorf("completed to\n%s", got)
	}
}

func TestCompletionInZsh(t *testing.T) {
	noProfiles(t)
	w := newWorld(t, "a")
	// What the script hands to zsh, which itself completes on a terminal only.
	got := shell(t, "zsh", `
compdef() { : }
_describe() { while [[ $1 == -* ]]; do shift; done; shift; print -rl -- "${(@P)1}" }
source <(tinkex completion zsh)
words=(tinkex checkpoint info tinker://`+w.run+`/weights/)
CURRENT=4
_tinkex`)
	// Within a word zsh wants colons escaped, for one begins the description.
	want := strings.ReplaceAll("tinker://"+w.run+"/weights/a:", ":", `\:`)
	if want = strings.TrimSuffix(want, `\:`) + ":"; !strings.Contains(got, want) {
		t.Errorf("completed to\n%s\nwant\n%s", got, want)
	}
}
