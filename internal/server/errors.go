package server

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/tinkex/tinkex/internal/outage"
	"github.com/tinkex/tinkex/internal/registry"
	"github.com/tinkex/tinkex/internal/wire"
)

// apiError is every error answer: the protocol's {"detail": ...}.
type apiError struct {
	wire.ErrorBody
	status int
	header http.Header
}

func (e *apiError) Error() string             { return e.Detail }
func (e *apiError) GetStatus() int            { return e.status }
func (e *apiError) GetHeaders() http.Header   { return e.header }
func (e *apiError) ContentType(string) string { return wire.ContentTypeJSON }

// Huma's own errors, of decoding and validation, become the protocol's: one
// sentence that names each wrong field.
func init() {
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		var parts []string
		for _, err := range errs {
			if err == nil {
				continue
			}
			var d huma.ErrorDetailer
			if !errors.As(err, &d) {
				parts = append(parts, err.Error())
				continue
			}
			detail := d.ErrorDetail()
			where := strings.TrimPrefix(strings.TrimPrefix(detail.Location, "body"), ".")
			if where == "" {
				parts = append(parts, detail.Message)
			} else {
				parts = append(parts, where+": "+detail.Message)
			}
		}
		if len(parts) > 0 {
			msg = strings.Join(parts, "; ")
		}
		return &apiError{ErrorBody: wire.ErrorBody{Detail: msg}, status: status}
	}
}

func failure(status int, detail string) error {
	return &apiError{ErrorBody: wire.ErrorBody{Detail: detail}, status: status}
}

// fail turns the registry's errors into answers. What is nobody's business
// but the operator's goes to the log, not to the client.
func (s *Server) fail(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var done *apiError
	if errors.As(err, &done) {
		return done
	}
	if errors.As(err, &callerOf(ctx).elsewhere) {
		// Middleware passes the request on instead of this answer.
		return &apiError{ErrorBody: wire.ErrorBody{Detail: err.Error()}, status: http.StatusServiceUnavailable, header: http.Header{"Retry-After": {retryAfter(0)}}}
	}
	status, detail := s.describe(ctx, err)
	e := &apiError{ErrorBody: wire.ErrorBody{Detail: detail}, status: status, header: http.Header{}}
	if status == http.StatusConflict {
		// A conflict here is final. The official SDK would retry a 409 for five
		// minutes (0.38.0, InternalClientHolder.execute_with_retries), so it is
		// told with a status that it does not retry.
		e.header.Set(wire.HeaderShouldRetry, "false")
		if fromOfficialSDK(ctx) {
			e.status = http.StatusBadRequest
		}
	}
	if status == http.StatusServiceUnavailable {
		var after time.Duration
		var known *registry.Error
		if errors.As(err, &known) {
			after = known.RetryAfter
		}
		e.header.Set("Retry-After", retryAfter(after))
	}
	return e
}

// retryAfter is when a client that was told "not now" may ask again, in whole
// seconds: one, unless it is known to take longer.
func retryAfter(d time.Duration) string {
	return strconv.FormatInt(max(1, int64(math.Ceil(d.Seconds()))), 10)
}

// describe gives an error's status and what the client is told.
func (s *Server) describe(ctx context.Context, err error) (int, string) {
	id := requestIDOf(ctx)
	if down, ok := outage.Of(err); ok {
		s.log.WarnContext(ctx, "a store is unavailable", "request_id", id, "error", down)
		return http.StatusServiceUnavailable, down.Public()
	}
	switch registry.CodeOf(err) {
	case registry.Invalid:
		return http.StatusBadRequest, err.Error()
	case registry.NotFound:
		return http.StatusNotFound, err.Error()
	case registry.Conflict:
		return http.StatusConflict, err.Error()
	case registry.Gone:
		return http.StatusGone, err.Error()
	case registry.Unavailable:
		return http.StatusServiceUnavailable, err.Error()
	}
	s.log.ErrorContext(ctx, "internal error", "request_id", id, "error", err)
	return http.StatusInternalServerError, "internal error; the server's log has it under request id " + id
}
