package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/hfhub"
)

// Why something is not pushed to the Hugging Face Hub; test with errors.Is.
var (
	// ErrNoHubToken: there is no token for the Hub.
	ErrNoHubToken = hfhub.ErrNoToken
	// ErrHubOIDC: HF_OIDC_RESOURCE asks for a token in exchange for the identity
	// of a CI job, and there is none.
	ErrHubOIDC = hfhub.ErrOIDC
	// ErrOccupied: the repository holds something else.
	ErrOccupied = errors.New("the repository holds something else")
)

// PushHFOptions configures PushHF. The zero value pushes to a private
// repository named after the base model and the run.
type PushHFOptions struct {
	// Repo is the repository: "namespace/name", or "name" in the namespace of the
	// token's user. Empty is tinker-<base model>-<run id> there, and then an
	// empty Revision is a branch named after the checkpoint, unless CreatePR is
	// set.
	Repo string
	// Public makes a repository that everybody sees, if it has to be made. One
	// that is there stays as it is.
	Public bool
	// Revision is the branch, which is made of the main one if it is not there.
	// Empty is the main one.
	Revision string
	// CommitMessage is the commit's first line. Empty says which checkpoint it
	// is.
	CommitMessage string
	// CreatePR opens a pull request to the main branch instead.
	CreatePR bool
	// AllowPatterns and IgnorePatterns select files by shell patterns, in which
	// * matches slashes too. Nil allows all, and ignores none.
	AllowPatterns, IgnorePatterns []string
	// NoModelCard leaves out README.md.
	NoModelCard bool
	// Force pushes to a repository that holds another checkpoint, or files of
	// which nothing says that they are this one.
	Force bool

	// Token authenticates at the Hub. Empty is the one that the huggingface_hub
	// package would use: that of a CI job if HF_OIDC_RESOURCE is set, HF_TOKEN, or
	// what "hf auth login" keeps, which is renewed and kept again if it is about
	// to end.
	Token string
	// Endpoint is the Hub's address. Empty is HF_ENDPOINT, then the Hub itself.
	Endpoint string
	// TempDir is where the files are kept meanwhile. Empty is os.TempDir().
	TempDir string
	// Jobs is how many uploads are on their way at once. If less than or equal to
	// 0, 4.
	Jobs int
	// Retries is how often in a row a request to the Hub may fail. Zero is 5,
	// negative is never.
	Retries int
	// RetryDelay is the first wait between two tries, which doubles from one to
	// the next up to 16 s, unless the Hub asks for another. If less than or equal
	// to 0, a second.
	RetryDelay time.Duration
	// HTTPClient sends the requests to the Hub. Nil is one of the push's own.
	HTTPClient *http.Client
	// Progress is called as files are sent, from one goroutine at a time.
	Progress func(sent, total int64)
	// Notice is called, from one goroutine at a time, with what people should
	// know.
	Notice func(message string)
	// Logger hears of retries. Nil discards.
	Logger *slog.Logger
	// Download says how the checkpoint is fetched. Its Dir and Force are not
	// used.
	Download DownloadOptions
}

// PushedHF is a checkpoint on the Hugging Face Hub.
type PushedHF struct {
	Path tinkex.TinkerPath
	// Repo is "namespace/name", URL where people look at it.
	Repo, URL string
	// Revision is the branch that was pushed to, or that a pull request is to.
	Revision string
	// Private is what the repository is.
	Private bool
	// Created: the repository was not there before.
	Created bool
	// Commit and CommitURL are the commit's; PullRequestURL is set if one was
	// asked for.
	Commit, CommitURL, PullRequestURL string
	// Unchanged: all of it was there before, and no commit was made.
	Unchanged bool
	BaseModel string
	Files     []File
	// SentBytes had to be sent; the Hub had the others.
	SentBytes int64
}

// HubError is an answer of the Hugging Face Hub that is not a success, or no
// answer. It matches the sentinels of package tinkex that its status stands
// for, and holds neither the token nor a signed URL.
type HubError struct {
	Status int // 0 if there was no answer
	err    error
}

// Error says what was being done and what the Hub said.
func (e *HubError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *HubError) Unwrap() error { return e.err }

// Is matches the sentinel that the status stands for.
func (e *HubError) Is(target error) bool {
	if target == tinkex.ErrNotFound && errors.Is(e.err, hfhub.ErrNotFound) {
		return true
	}
	return (&tinkex.Error{Status: e.Status}).Is(target) && !errors.Is(e.err, hfhub.ErrNotFound)
}

func hubError(err error) error {
	var e *hfhub.Error
	if errors.As(err, &e) {
		return &HubError{e.Status, err}
	}
	return err
}

// CheckPushHF reports what is wrong with the options, as far as that can be
// said without asking anybody.
func CheckPushHF(opts PushHFOptions) error {
	if opts.Repo != "" {
		if _, err := hfhub.ParseRepoID(opts.Repo); err != nil {
			return invalidOption("%w", err)
		}
	}
	if opts.Revision != "" {
		if err := hfhub.CheckRevision(opts.Revision); err != nil {
			return invalidOption("the revision %w", err)
		}
		if opts.CreatePR && opts.Revision != hfhub.MainRevision {
			return invalidOption("a pull request is made to the branch %s: the revision %q cannot be asked for beside it", hfhub.MainRevision, opts.Revision)
		}
	}
	for _, p := range [][]string{opts.AllowPatterns, opts.IgnorePatterns} {
		if _, err := filePatterns(p); err != nil {
			return err
		}
	}
	return nil
}

func invalidOption(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &tinkex.Error{Category: tinkex.CategoryUser, Message: err.Error(), Err: errors.Join(tinkex.ErrInvalid, err)}
}

// PushHF makes a checkpoint the content of a model repository on the Hugging
// Face Hub: what Export makes of it, in one commit. It is fetched into a
// temporary directory, from which memory-bounded uploads take it.
//
// A branch whose model card names another checkpoint, or that has files and no
// card that names this one, is ErrOccupied unless Force is set. Files that are
// there already are not sent again, so a push that failed goes on where it
// stopped when it is made again.
func PushHF(ctx context.Context, client ExportClient, path tinkex.TinkerPath, opts PushHFOptions) (PushedHF, error) {
	p := &push{client: client, opts: opts, out: PushedHF{Path: path}}
	if err := p.run(ctx); err != nil {
		return PushedHF{}, fmt.Errorf("push %s: %w", path, hubError(err))
	}
	return p.out, nil
}

// push is one push on its way.
type push struct {
	client ExportClient
	opts   PushHFOptions
	hub    *hfhub.Client
	about  *adapter
	repo   hfhub.RepoID
	user   string
	out    PushedHF

	allow, ignore []*regexp.Regexp

	found bool   // the repository is there
	isNew bool   // the branch has to be made
	head  string // the commit that was looked at
}

func (p *push) run(ctx context.Context) error {
	if err := p.out.Path.Validate(); err != nil {
		return err
	}
	if err := CheckPushHF(p.opts); err != nil {
		return err
	}
	var err error
	if p.allow, err = filePatterns(p.opts.AllowPatterns); err != nil {
		return err
	}
	if p.ignore, err = filePatterns(p.opts.IgnorePatterns); err != nil {
		return err
	}
	p.hub, err = hfhub.New(ctx, hfhub.Options{
		Endpoint: p.opts.Endpoint, Token: p.opts.Token, UserAgent: "tinkex-go/" + tinkex.Version,
		HTTPClient: p.opts.HTTPClient, Jobs: p.opts.Jobs, Retries: p.opts.Retries, RetryDelay: p.opts.RetryDelay,
		Notice: p.opts.Notice, Logger: p.opts.Logger,
	})
	if err != nil {
		return err
	}
	// A CI job's token stands for no user, and need not where one is named.
	if !p.hub.Keyless() || !strings.Contains(p.opts.Repo, "/") {
		if p.user, err = p.hub.WhoAmI(ctx); err != nil {
			return err
		}
	}
	if p.about, err = adapterOf(ctx, p.client, p.out.Path); err != nil {
		return err
	}
	// Before gigabytes are fetched, if the repository is known already.
	if p.opts.Repo != "" || p.about.info.BaseModel != "" {
		if err := p.choose(ctx); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp(p.opts.TempDir, "tinkex-push-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	got, err := p.about.export(ctx, p.client, ExportOptions{
		Dir: filepath.Join(dir, "adapter"), NoModelCard: p.opts.NoModelCard, Download: p.opts.Download,
	}, func() (string, error) {
		err := p.choose(ctx)
		return p.out.Repo, err
	})
	if err != nil {
		return err
	}
	p.out.BaseModel = got.BaseModel
	return p.commit(ctx, got)
}

// choose decides on the repository and looks at what is in it, once.
func (p *push) choose(ctx context.Context) error {
	if p.out.Repo != "" {
		return nil
	}
	name := p.opts.Repo
	p.out.Revision = p.opts.Revision
	if name == "" {
		name = p.defaultName()
		if p.out.Revision == "" && !p.opts.CreatePR {
			p.out.Revision = hubName(strings.ReplaceAll(p.out.Path.CheckpointID(), "/", "-"))
		}
	}
	if p.out.Revision == "" {
		p.out.Revision = hfhub.MainRevision
	}
	repo, err := hfhub.ParseRepoID(name)
	if err != nil {
		return err
	}
	if repo.Namespace == "" {
		repo.Namespace = p.user
	}
	p.repo, p.out.Repo, p.out.URL = repo, repo.String(), p.hub.RepoURL(repo)
	return p.look(ctx)
}

// defaultName is the name that the official CLI derives, shortened to what the
// Hub takes.
func (p *push) defaultName() string {
	base := p.about.info.BaseModel
	if i := strings.LastIndex(base, "/"); i >= 0 {
		base = base[i+1:]
	}
	base, run := hubName(base), hubName(p.out.Path.RunID)
	if base == "" {
		base = "adapter"
	}
	const prefix = "tinker-"
	if most := hfhub.MaxNameLength - len(prefix) - len("-") - len(run); len(base) > most {
		base = strings.TrimRight(base[:max(most, 0)], "-_.")
	}
	name := hubName(prefix + base + "-" + run)
	return strings.TrimRight(name[:min(len(name), hfhub.MaxNameLength)], "-_.")
}

var (
	notInName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)
	dashes    = regexp.MustCompile(`-{2,}`)
	dots      = regexp.MustCompile(`\.{2,}`)
)

// hubName makes a name of what may hold anything.
func hubName(s string) string {
	s = notInName.ReplaceAllString(s, "-")
	s = dots.ReplaceAllString(dashes.ReplaceAllString(s, "-"), ".")
	return strings.Trim(s, "-_. ")
}

// look finds out what is in the way.
func (p *push) look(ctx context.Context) error {
	info, err := p.hub.Info(ctx, p.repo, p.out.Revision)
	if errors.Is(err, hfhub.ErrNoRevision) {
		main, err := p.hub.Info(ctx, p.repo, "")
		if err != nil {
			return err
		}
		// What is on the main branch becomes part of the new one, and stays what
		// it is on its own.
		p.found, p.isNew, p.out.Private = true, true, main.Private
		p.sayVisibility()
		return nil
	}
	if errors.Is(err, hfhub.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	p.found, p.out.Private, p.head = true, info.Private, info.Commit
	p.sayVisibility()
	if p.opts.Force {
		return nil
	}
	occupied := func(format string, args ...any) error {
		return &tinkex.Error{Category: tinkex.CategoryUser, Err: ErrOccupied, Message: fmt.Sprintf("%s, branch %s, "+format, append([]any{p.repo, p.out.Revision}, args...)...)}
	}
	files := 0
	for _, name := range info.Files {
		switch name {
		case ".gitattributes":
			continue
		case modelCard:
			card, err := p.hub.ReadFile(ctx, p.repo, info.Commit, modelCard, maxCard)
			if err != nil {
				return err
			}
			if found := tinkerPathIn.FindString(string(card)); found != "" {
				if found != p.out.Path.String() {
					return occupied("holds another checkpoint: %s", found)
				}
				return nil
			}
		}
		files++
	}
	if files > 0 {
		return occupied("has %d files and no model card that names this checkpoint", files)
	}
	return nil
}

// maxCard bounds how much of a model card is read.
const maxCard = 1 << 20

func (p *push) sayVisibility() {
	switch {
	case p.opts.Public && p.out.Private:
		p.notice(p.out.Repo + " is there and private, and stays so")
	case !p.opts.Public && !p.out.Private:
		p.notice(p.out.Repo + " is there and public: everybody will see the checkpoint")
	}
}

func (p *push) notice(message string) {
	if p.opts.Notice != nil {
		p.opts.Notice(message)
	}
}

// commit makes what has to be made on the Hub, and the commit.
func (p *push) commit(ctx context.Context, got Exported) error {
	files, closeAll, err := p.files(got)
	defer closeAll()
	if err != nil {
		return err
	}
	for _, f := range p.out.Files {
		if f.Name == modelCard && f.Size <= maxCard {
			if err := p.checkCard(ctx, filepath.Join(got.Dir, modelCard)); err != nil {
				return err
			}
		}
	}
	if !p.found {
		if p.out.Created, err = p.hub.CreateRepo(ctx, p.repo, !p.opts.Public); err != nil {
			return err
		}
		// It may have been made meanwhile.
		p.out.Private = !p.opts.Public
		if err := p.look(ctx); err != nil {
			return err
		}
	}
	if p.isNew {
		if err := p.hub.CreateBranch(ctx, p.repo, p.out.Revision); err != nil {
			return err
		}
	}
	message := p.opts.CommitMessage
	if message == "" {
		message = "Upload " + p.out.Path.String()
	}
	c, err := p.hub.Commit(ctx, p.repo, files, hfhub.CommitOptions{
		Revision: p.out.Revision, Parent: p.head, Summary: message, CreatePR: p.opts.CreatePR, Progress: p.opts.Progress,
	})
	if errors.Is(err, hfhub.ErrMoved) {
		return &tinkex.Error{
			Category: tinkex.CategoryUser, Err: errors.Join(tinkex.ErrConflict, err),
			Message: fmt.Sprintf("%s, branch %s, was changed by somebody else meanwhile; push again to look at it anew", p.repo, p.out.Revision),
		}
	}
	if err != nil {
		return err
	}
	p.out.Commit, p.out.CommitURL, p.out.PullRequestURL = c.ID, c.URL, c.PullRequestURL
	p.out.Unchanged, p.out.SentBytes = c.Unchanged, c.Sent
	return nil
}

// files opens those that are pushed.
func (p *push) files(got Exported) (files []hfhub.File, closeAll func(), err error) {
	var open []*os.File
	closeAll = func() {
		for _, f := range open {
			_ = f.Close()
		}
	}
	for _, f := range got.Files {
		if !p.selected(f.Name) {
			continue
		}
		r, err := os.Open(filepath.Join(got.Dir, filepath.FromSlash(f.Name)))
		if err != nil {
			return nil, closeAll, err
		}
		open = append(open, r)
		files = append(files, hfhub.File{Path: f.Name, Size: f.Size, SHA256: f.SHA256, Content: r})
		p.out.Files = append(p.out.Files, f)
	}
	if len(files) == 0 {
		return nil, closeAll, invalidOption("the patterns leave no file to push; there are %s", strings.Join(fileNames(got.Files), ", "))
	}
	return files, closeAll, nil
}

func (p *push) selected(name string) bool {
	matches := func(re *regexp.Regexp) bool { return re.MatchString(name) }
	return (len(p.allow) == 0 || slices.ContainsFunc(p.allow, matches)) && !slices.ContainsFunc(p.ignore, matches)
}

// checkCard has the Hub look at the model card before everything is sent.
func (p *push) checkCard(ctx context.Context, name string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	problems, warnings, err := p.hub.CardProblems(ctx, string(b))
	if err != nil {
		return err
	}
	for _, w := range warnings {
		p.notice("the Hub says of " + modelCard + ": " + w)
	}
	if len(problems) > 0 {
		return invalidOption("the Hub does not take the %s: %s; leave it out with NoModelCard", modelCard, strings.Join(problems, "; "))
	}
	return nil
}

// filePatterns understands shell patterns as the huggingface_hub package does: *
// matches slashes too, and what ends with a slash means everything below.
func filePatterns(patterns []string) ([]*regexp.Regexp, error) {
	var out []*regexp.Regexp
	for _, p := range patterns {
		re, err := regexp.Compile(globRegexp(p))
		if err != nil || p == "" {
			return nil, invalidOption("%q is no pattern for files: use *, ? and [...], such as *.json", p)
		}
		out = append(out, re)
	}
	return out, nil
}

func globRegexp(pattern string) string {
	if strings.HasSuffix(pattern, "/") {
		pattern += "*"
	}
	glob := []rune(pattern)
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for i := 0; i < len(glob); i++ {
		switch glob[i] {
		case '*':
			b.WriteString(".*")
		case '?':
			b.WriteString(".")
		case '[':
			// A bracket that stands first is in the set.
			end := slices.Index(glob[min(i+2, len(glob)):], ']')
			if end < 0 {
				b.WriteString(`\[`)
				continue
			}
			set, not := strings.CutPrefix(string(glob[i+1:i+2+end]), "!")
			i += 2 + end
			b.WriteByte('[')
			if not {
				b.WriteByte('^')
			}
			b.WriteString(strings.NewReplacer(`\`, `\\`, `[`, `\[`, `]`, `\]`, `^`, `\^`).Replace(set) + "]")
		default:
			b.WriteString(regexp.QuoteMeta(string(glob[i])))
		}
	}
	return b.String() + `\z`
}
