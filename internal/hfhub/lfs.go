package hfhub

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const lfsType = "application/vnd.git-lfs+json"

// lfsAction is where something is to be sent, in the LFS protocol.
type lfsAction struct {
	Href   string                     `json:"href"`
	Header map[string]json.RawMessage `json:"header"`
}

// header is one of the action's, whether it is spelled as text or as a number.
func (a lfsAction) header(key string) string {
	var s string
	if json.Unmarshal(a.Header[key], &s) == nil {
		return s
	}
	return string(a.Header[key])
}

// lfsUpload is a file to be sent, and where.
type lfsUpload struct {
	wayOf
	to     lfsAction
	verify *lfsAction
}

// batch asks where LFS files are to be sent; those that the Hub has are left
// out.
func (c *Client) batch(ctx context.Context, repo RepoID, ways []wayOf, revision string) ([]lfsUpload, error) {
	type object struct {
		OID  string `json:"oid"`
		Size int64  `json:"size"`
	}
	byOID := map[string]wayOf{}
	var objects []object
	for _, w := range ways {
		byOID[w.sha] = w
		objects = append(objects, object{w.sha, w.file.Size})
	}
	req := map[string]any{
		"operation": "upload", "transfers": []string{"basic", "multipart"}, "hash_algo": "sha256",
		"objects": objects, "ref": map[string]string{"name": revision},
	}
	var answer struct {
		Objects []struct {
			OID     string `json:"oid"`
			Actions *struct {
				Upload *lfsAction `json:"upload"`
				Verify *lfsAction `json:"verify"`
			} `json:"actions"`
			Error *struct {
				Code    int    `json:"code"`
				Message string `json:"message"`
			} `json:"error"`
		} `json:"objects"`
	}
	op := "ask where to upload to " + repo.String()
	body, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	r := request{
		method: http.MethodPost, url: c.url("/" + escapePath(repo.String()) + ".git/info/lfs/objects/batch"),
		accept: lfsType, contentType: lfsType,
	}
	if err := c.retry(ctx, op, func(ctx context.Context) error { return c.once(ctx, op, r, body, &answer) }); err != nil {
		return nil, err
	}
	var todo []lfsUpload
	for _, o := range answer.Objects {
		w, ok := byOID[o.OID]
		if !ok {
			return nil, &Error{Op: op, Message: "the answer is about a file that was not asked for"}
		}
		delete(byOID, o.OID)
		switch {
		case o.Error != nil:
			return nil, &Error{Op: op, Status: o.Error.Code, Message: fmt.Sprintf("%s: %s", w.file.Path, o.Error.Message)}
		case o.Actions == nil || o.Actions.Upload == nil:
			continue // it has it
		}
		todo = append(todo, lfsUpload{w, *o.Actions.Upload, o.Actions.Verify})
	}
	for _, w := range byOID {
		return nil, &Error{Op: op, Message: "the answer does not say where to send " + w.file.Path}
	}
	return todo, nil
}

// uploadLFS sends one file, whole or in parts as the Hub asked for it.
func (c *Client) uploadLFS(ctx context.Context, u *lfsUpload, p *progress) error {
	href := c.fixed(u.to.Href)
	if _, ok := u.to.Header["chunk_size"]; ok {
		if err := c.uploadParts(ctx, u, href, p); err != nil {
			return err
		}
	} else if _, err := c.put(ctx, "send it", href, u.file.Content, 0, u.file.Size, p); err != nil {
		return err
	}
	if u.verify == nil {
		return nil
	}
	return c.call(ctx, "have it verified", http.MethodPost, c.fixed(u.verify.Href), map[string]any{"oid": u.sha, "size": u.file.Size}, nil)
}

// uploadParts sends a file in parts, whose addresses are in the action's header
// under their numbers, and says that all are there.
func (c *Client) uploadParts(ctx context.Context, u *lfsUpload, href string, p *progress) error {
	size, err := strconv.ParseInt(u.to.header("chunk_size"), 10, 64)
	if err != nil || size <= 0 {
		return &Error{Op: "send it in parts", Message: fmt.Sprintf("the Hub asks for parts of %q bytes", u.to.header("chunk_size"))}
	}
	urls := map[int]string{}
	for key := range u.to.Header {
		if n, err := strconv.Atoi(key); err == nil {
			urls[n] = u.to.header(key)
		}
	}
	numbers := slices.Sorted(maps.Keys(urls))
	if want := (u.file.Size + size - 1) / size; int64(len(numbers)) != want {
		return &Error{Op: "send it in parts", Message: fmt.Sprintf("the Hub has room for %d parts of the %d that there are", len(numbers), want)}
	}
	type part struct {
		Number int    `json:"partNumber"`
		ETag   string `json:"etag"`
	}
	parts := make([]part, len(numbers))
	err = c.forEach(ctx, len(numbers), func(ctx context.Context, i int) error {
		op := fmt.Sprintf("send part %d of %d", i+1, len(numbers))
		offset := int64(i) * size
		etag, err := c.put(ctx, op, c.fixed(urls[numbers[i]]), u.file.Content, offset, min(size, u.file.Size-offset), p)
		if err == nil && etag == "" {
			err = &Error{Op: op, Message: "the answer has no entity tag"}
		}
		parts[i] = part{i + 1, etag}
		return err
	})
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{"oid": u.sha, "parts": parts})
	if err != nil {
		return err
	}
	const op = "complete its parts"
	r := request{method: http.MethodPost, url: href, accept: lfsType, contentType: lfsType, anonymous: true}
	return c.retry(ctx, op, func(ctx context.Context) error { return c.once(ctx, op, r, body, nil) })
}

// fixed puts the endpoint in the place of the Hub's own address, which servers
// that stand in front of it pass on.
func (c *Client) fixed(href string) string {
	rest, ok := strings.CutPrefix(href, DefaultEndpoint)
	if !ok || rest != "" && rest[0] != '/' {
		return href
	}
	if own, err := url.Parse(DefaultEndpoint); err == nil && sameOrigin(own, c.endpoint) {
		return href
	}
	return c.endpoint.String() + rest
}
