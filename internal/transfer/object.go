package transfer

import "context"

// Object is a remote file.
type Object struct {
	// Name is what errors call it.
	Name string
	// Locate returns the URL to read from. refused is the URL that the server
	// does not accept any more, such as one that has expired, or empty at first.
	// It is called by one goroutine at a time.
	Locate func(ctx context.Context, refused string) (string, error)
	// Size is its length in bytes, or -1 to learn it from the server.
	Size int64
	// ETag is its strong entity tag, if it is known. Answers that have another
	// are ErrChanged.
	ETag string
}

// location is an object's URL, shared by all requests for it and renewed once
// for all that find it refused.
type location struct {
	locate func(ctx context.Context, refused string) (string, error)
	lock   chan struct{} // held while url is read or renewed; waiting for it heeds contexts
	url    string
}

func newLocation(locate func(context.Context, string) (string, error)) *location {
	return &location{locate: locate, lock: make(chan struct{}, 1)}
}

// get returns the URL; unless refused is empty, one other than that.
func (l *location) get(ctx context.Context, refused string) (string, error) {
	select {
	case l.lock <- struct{}{}:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	defer func() { <-l.lock }()
	if l.url != "" && l.url != refused {
		return l.url, nil
	}
	url, err := l.locate(ctx, refused)
	if err == nil {
		l.url = url
	}
	return url, err
}
