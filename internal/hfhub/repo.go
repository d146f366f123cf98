package hfhub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// MainRevision is the branch that every repository has.
const MainRevision = "main"

// RepoID names a model repository.
type RepoID struct{ Namespace, Name string }

// String is "namespace/name".
func (r RepoID) String() string { return r.Namespace + "/" + r.Name }

// MaxNameLength bounds a namespace and a name.
const MaxNameLength = 96

var namePattern = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`)

// ErrRepoID: not what a repository can be called.
var ErrRepoID = errors.New("invalid Hugging Face repository id")

// ParseRepoID reads "namespace/name", or "name" with an empty namespace.
func ParseRepoID(s string) (RepoID, error) {
	namespace, name, both := strings.Cut(s, "/")
	if !both {
		namespace, name = "", s
	}
	parts := []string{name}
	if both {
		parts = append(parts, namespace)
	}
	for _, p := range parts {
		switch {
		case p == "" || strings.Contains(p, "/"):
			return RepoID{}, fmt.Errorf("%w: %q: expected NAMESPACE/NAME, such as me/my-adapter", ErrRepoID, s)
		case len(p) > MaxNameLength:
			return RepoID{}, fmt.Errorf("%w: %q: %d characters are more than %d", ErrRepoID, s, len(p), MaxNameLength)
		case !namePattern.MatchString(p):
			return RepoID{}, fmt.Errorf("%w: %q: letters, digits, '-', '_' and '.' make a name, which begins and ends with none of '-' and '.'", ErrRepoID, s)
		case strings.Contains(p, "--") || strings.Contains(p, ".."):
			return RepoID{}, fmt.Errorf("%w: %q: a name has neither -- nor .. in it", ErrRepoID, s)
		case strings.HasSuffix(p, ".git"):
			return RepoID{}, fmt.Errorf("%w: %q: a name does not end with .git", ErrRepoID, s)
		}
	}
	return RepoID{namespace, name}, nil
}

// CheckRevision refuses what git would refuse as a branch's name.
func CheckRevision(s string) error {
	bad := func(why string) error { return fmt.Errorf("%q cannot be a branch: %s", s, why) }
	switch {
	case s == "":
		return bad("it is empty")
	case len(s) > 250:
		return bad("it is too long")
	case strings.HasPrefix(s, "-") || strings.HasPrefix(s, "/") || strings.HasSuffix(s, "/") || strings.HasSuffix(s, ".") || strings.HasSuffix(s, ".lock"):
		return bad("it begins or ends with what no branch does")
	case strings.Contains(s, "..") || strings.Contains(s, "//") || strings.Contains(s, "@{") || strings.Contains(s, "/.") || strings.HasPrefix(s, "."):
		return bad("it has .., //, /. or @{ in it, or begins with a dot")
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`~^:?*[\`, r) }):
		return bad(`it has a space or one of ~^:?*[\ in it`)
	}
	return nil
}

// WhoAmI is the name of the token's user, which is its namespace.
func (c *Client) WhoAmI(ctx context.Context) (string, error) {
	var out struct {
		Name string `json:"name"`
	}
	err := c.call(ctx, "ask whose token it is", http.MethodGet, c.url("/api/whoami-v2"), nil, &out)
	if err == nil && out.Name == "" {
		err = &Error{Op: "ask whose token it is", Message: "the answer has no name"}
	}
	return out.Name, err
}

// CreateRepo makes a model repository, unless it is there, which it says. One
// that is there is left as it is.
func (c *Client) CreateRepo(ctx context.Context, repo RepoID, private bool) (created bool, err error) {
	visibility := "public"
	if private {
		visibility = "private"
	}
	req := map[string]any{"name": repo.Name, "organization": repo.Namespace, "type": "model", "visibility": visibility}
	op := "create " + repo.String()
	err = c.call(ctx, op, http.MethodPost, c.url("/api/repos/create"), req, nil)
	var e *Error
	if !errors.As(err, &e) {
		return err == nil, err
	}
	switch e.Status {
	case http.StatusConflict:
		return false, nil
	case http.StatusUnauthorized, http.StatusPaymentRequired, http.StatusForbidden:
		// A token that may write but not create is answered like this, whether
		// the repository is there or not.
		if _, infoErr := c.Info(ctx, repo, ""); infoErr == nil {
			return false, nil
		}
	}
	return false, err
}

// RepoInfo is what is in a repository at a revision.
type RepoInfo struct {
	Commit  string // of the revision, 40 hexadecimal digits
	Private bool
	Files   []string
}

// Info tells what is in a repository; no revision is the main one. What is not
// there, or not for the token to see, is ErrNotFound, and ErrNoRevision too if
// it is only the revision.
func (c *Client) Info(ctx context.Context, repo RepoID, revision string) (RepoInfo, error) {
	var out struct {
		SHA      string `json:"sha"`
		Private  bool   `json:"private"`
		Siblings []struct {
			Name string `json:"rfilename"`
		} `json:"siblings"`
	}
	u := c.api(repo)
	if revision != "" {
		u += "/revision/" + url.PathEscape(revision)
	}
	if err := c.call(ctx, "look at "+repo.String(), http.MethodGet, u, nil, &out); err != nil {
		return RepoInfo{}, err
	}
	info := RepoInfo{Commit: out.SHA, Private: out.Private}
	for _, s := range out.Siblings {
		info.Files = append(info.Files, s.Name)
	}
	return info, nil
}

// CreateBranch makes a branch of the main one, unless it is there.
func (c *Client) CreateBranch(ctx context.Context, repo RepoID, branch string) error {
	u := c.api(repo) + "/branch/" + url.PathEscape(branch)
	err := c.call(ctx, fmt.Sprintf("make the branch %s of %s", branch, repo), http.MethodPost, u, struct{}{}, nil)
	var e *Error
	if errors.As(err, &e) && e.Status == http.StatusConflict {
		return nil
	}
	return err
}

// ReadFile returns the beginning of a file, up to limit bytes.
func (c *Client) ReadFile(ctx context.Context, repo RepoID, revision, name string, limit int64) ([]byte, error) {
	op := fmt.Sprintf("read %s of %s", name, repo)
	var out []byte
	err := c.retry(ctx, op, func(ctx context.Context) error {
		u := c.url("/" + escapePath(repo.String()) + "/resolve/" + url.PathEscape(revision) + "/" + escapePath(name))
		resp, err := c.send(ctx, op, request{method: http.MethodGet, url: u})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		out, err = io.ReadAll(io.LimitReader(resp.Body, limit))
		return transient(op, err)
	})
	return out, err
}

// CardProblems asks the Hub whether it would take a model card: its errors, and
// what it would warn of.
func (c *Client) CardProblems(ctx context.Context, card string) (problems, warnings []string, err error) {
	type said []struct {
		Message string `json:"message"`
	}
	var out struct {
		Errors   said `json:"errors"`
		Warnings said `json:"warnings"`
	}
	err = c.call(ctx, "check the model card", http.MethodPost, c.url("/api/validate-yaml"), map[string]string{"content": card, "repoType": "model"}, &out)
	var e *Error
	if errors.As(err, &e) && e.Status == http.StatusBadRequest && e.decode(&out) == nil && len(out.Errors) > 0 {
		err = nil
	}
	for _, m := range out.Errors {
		problems = append(problems, m.Message)
	}
	for _, m := range out.Warnings {
		warnings = append(warnings, m.Message)
	}
	return problems, warnings, err
}

// RepoURL is where people look at a repository.
func (c *Client) RepoURL(repo RepoID) string { return c.url("/" + escapePath(repo.String())) }

func (c *Client) url(path string) string { return c.endpoint.String() + path }

func (c *Client) api(repo RepoID) string { return c.url("/api/models/" + escapePath(repo.String())) }

// escapePath escapes all of a path but its slashes.
func escapePath(p string) string {
	parts := strings.Split(p, "/")
	for i, s := range parts {
		parts[i] = url.PathEscape(s)
	}
	return strings.Join(parts, "/")
}
