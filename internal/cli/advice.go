package cli

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/checkpoint"
	"github.com/tinkex/tinkex/internal/profile"
	"github.com/tinkex/tinkex/internal/wire"
)

// hint says what to do next about an error, where that is known.
func (a *app) hint(err error) string {
	for _, h := range []func(error) string{hubHint, mirrorHint, a.credentialHint, a.networkHint, diskHint, a.statusHint} {
		if hint := h(err); hint != "" {
			return hint
		}
	}
	return ""
}

// hubHint is about the Hugging Face Hub.
func hubHint(err error) string {
	var hub *checkpoint.HubError
	switch {
	case noHubToken(err) && errors.Is(err, checkpoint.ErrHubOIDC):
		return "The repository, or the user, that HF_OIDC_RESOURCE names has to trust this job (https://huggingface.co/docs/hub/trusted-publishers). To use another token, unset HF_OIDC_RESOURCE."
	case errors.Is(err, checkpoint.ErrNoHubToken):
		return "Set HF_TOKEN to a token with write access (https://huggingface.co/settings/tokens), or log in with 'hf auth login'."
	case errors.As(err, &hub) && errors.Is(err, tinkex.ErrUnauthorized):
		return "The Hub does not accept the token: check HF_TOKEN, or log in again with 'hf auth login'."
	case errors.As(err, &hub) && errors.Is(err, tinkex.ErrForbidden):
		return "The Hub's token may not do that: it needs write access to the repository's namespace."
	case errors.As(err, &hub):
		return "The same command goes on from there: what the Hub has is not sent again."
	case errors.Is(err, checkpoint.ErrOccupied):
		return "Use --force to push there all the same, or choose another repository with --repo or another branch with --revision."
	}
	return ""
}

// noHubToken reports whether err is that there is no token for the Hub, and not
// that the Hub could not be asked for one.
func noHubToken(err error) bool {
	var hub *checkpoint.HubError
	if errors.As(err, &hub) && (hub.Status < 400 || hub.Status == http.StatusTooManyRequests || hub.Status >= 500) {
		return false
	}
	return errors.Is(err, checkpoint.ErrNoHubToken) || errors.Is(err, checkpoint.ErrHubOIDC)
}

// mirrorHint is about mirrors.
func mirrorHint(err error) string {
	var locked *checkpoint.MirrorLockedError
	switch {
	case errors.As(err, &locked):
		return "Wait until it is done, and run the same command again; what it has mirrored is not fetched again."
	case errors.Is(err, checkpoint.ErrOtherAccount):
		return "Choose another target, or use --rebind to make this one your account's; what is in it stays."
	case errors.Is(err, checkpoint.ErrNoMirror):
		return "'tinkex checkpoint mirror --to TARGET' makes one."
	case errors.Is(err, checkpoint.ErrKeepsNothing):
		return "Use --all to remove them all."
	}
	return ""
}

func (a *app) credentialHint(err error) string {
	c := a.conn
	var none *noKeyError
	switch {
	case errors.As(err, &none) && none.elsewhere:
		return fmt.Sprintf("Give the key for that server with TINKER_API_KEY, or store it under a name: tinkex login --profile NAME --base-url %s", none.server)
	case errors.Is(err, profile.ErrExposed):
		return "" // it says what to do
	case errors.Is(err, profile.ErrNoKeyring) && none == nil: // logging out
		return "Unlock the keyring or make it reachable, and run the same command again."
	case errors.Is(err, profile.ErrNoKeyring):
		return fmt.Sprintf("Unlock the keyring or make it reachable; or store the key in a file with 'tinkex login --profile %s --no-keyring', or set TINKER_API_KEY.", c.profile.value)
	case errors.As(err, &none) && none.why != nil:
		return fmt.Sprintf("Store the key again with 'tinkex login --profile %s', or set TINKER_API_KEY.", c.profile.value)
	case errors.Is(err, tinkex.ErrMissingAPIKey):
		return "Run 'tinkex login', or set TINKER_API_KEY. A server of your own (tinkex serve) takes any key that starts with tml- until you create some."
	case errors.Is(err, tinkex.ErrMalformedAPIKey) && c.key.value != "":
		return "The key is from " + c.key.from + "."
	case errors.Is(err, tinkex.ErrMalformedBaseURL) && c.baseURL.value != "":
		return "The URL is from " + c.baseURL.from + "."
	case errors.Is(err, tinkex.ErrUnauthorized):
		return a.unauthorizedHint()
	}
	return ""
}

// unauthorizedHint says whose key was refused, and what to do.
func (a *app) unauthorizedHint() string {
	c := a.conn
	if c.key.value == "" {
		return "Check the key, and that the server is the one it belongs to."
	}
	hint := fmt.Sprintf("%s (from %s) does not accept the key from %s. ", c.baseURL.value, c.baseURL.from, c.key.from)
	if c.keyIn != "" {
		return hint + fmt.Sprintf("If it was revoked, 'tinkex login --profile %s' stores another.", c.profile.value)
	}
	return hint + "Check that it is whole, and that it is this server's; 'tinkex profile show' says where both come from."
}

func isOneOf(err error, of []error) bool {
	return slices.ContainsFunc(of, func(e error) bool { return errors.Is(err, e) })
}

// networkHint is about connections that could not be made or that broke.
func (a *app) networkHint(err error) string {
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		dns       *net.DNSError
		op        *net.OpError
		e         *tinkex.Error
		timeout   interface{ Timeout() bool }
	)
	switch {
	case errors.As(err, &authority):
		return "Nobody this system trusts has signed the server's certificate. If that is expected, add its CA to the system's; on Linux, SSL_CERT_FILE may name a file of CAs instead."
	case errors.As(err, &host):
		return "The certificate is for other names than the base URL's: use one that it lists, or have it issued for this one."
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "The certificate is not valid at this computer's time. Check the clock ('tinkex doctor'); if it is right, the server needs a new certificate."
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "What answers there does not speak TLS: if the server is meant to be reached without, its base URL starts with http://."
	case strings.Contains(err.Error(), "HTTP request to an HTTPS server"):
		return "The server speaks TLS: its base URL starts with https://."
	case errors.As(err, &op) && op.Op == "proxyconnect":
		return "The connection goes through a proxy, which HTTPS_PROXY or HTTP_PROXY names. Correct it, or list the server's host in NO_PROXY."
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Sprintf("No host is called %s here. Check the URL's spelling, and the network or VPN that knows the name.", a.printable(dns.Name))
	case errors.As(err, &dns):
		return "The name server gave no answer. Check the network connection."
	case isOneOf(err, errnoRefused) && !errors.As(err, &e): // a bucket's server, or a database's
		return "Nothing listens there. Check that the server runs, and its host and port."
	case isOneOf(err, errnoRefused):
		if u, perr := url.Parse(a.conn.baseURL.value); perr == nil && isLoopback(u.Hostname()) {
			return fmt.Sprintf("Nothing listens there. 'tinkex serve --addr %s' starts a server.", u.Host)
		}
		return "Nothing listens there. Check that the server runs, and the base URL's host and port ('tinkex profile show' says where it is from)."
	case isOneOf(err, errnoUnreachable):
		return "There is no way to that host. Check the network connection or VPN."
	case errors.As(err, &e) && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || isOneOf(err, errnoReset)):
		return "The connection broke off: the server stopped, or something in between did. Try again; 'tinkex doctor' looks closer."
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "The server did not answer in time. Try again; --timeout 5m allows for more, and 'tinkex doctor' looks closer."
	}
	return ""
}

func diskHint(err error) string {
	switch {
	case isOneOf(err, errnoDiskFull):
		return "The disk is full. Make room, and run the same command again: downloads go on where they stopped. -o chooses another disk."
	case isOneOf(err, errnoReadOnly):
		return "The file system is mounted read-only. Choose another directory with -o."
	case errors.Is(err, fs.ErrPermission):
		return "You may not read or write there. Check the owner and mode, or choose another directory."
	}
	return ""
}

// statusHint is about what servers answer.
func (a *app) statusHint(err error) string {
	var e *tinkex.Error
	answered := errors.As(err, &e)
	switch {
	case answered && strings.Contains(e.Message, "extension of tinkex serve"):
		return "A server of your own has it: 'tinkex serve' starts one, and --base-url or 'tinkex login' goes to it."
	case answered && strings.Contains(e.Message, "web page"):
		return fmt.Sprintf("That is not a Tinker server's answer. Check the base URL, %s, and any proxy in between.", a.conn.baseURL.value)
	case errors.Is(err, tinkex.ErrNotFound) && strings.HasSuffix(strings.TrimRight(a.conn.baseURL.value, "/"), wire.APIPrefix):
		return a.baseURLHint()
	case errors.Is(err, tinkex.ErrNotFound) && a.conn.baseURL.value == "":
		return "" // no server was asked; it is about a key or a file of one's own
	case errors.Is(err, tinkex.ErrNotFound):
		return "It does not exist, has expired, or belongs to another key. 'tinkex checkpoint list' shows yours, 'tinkex profile show' whose key is used."
	case errors.Is(err, tinkex.ErrInvalidPath):
		return "A path is tinker://RUN/weights/NAME or tinker://RUN/sampler_weights/NAME. 'tinkex checkpoint list' shows yours; latest may stand for RUN and for NAME."
	case errors.Is(err, tinkex.ErrForbidden):
		return "The key may not do that. It belongs to the owner, or to a key with more rights; 'tinkex profile show' says which key is used."
	case errors.Is(err, tinkex.ErrRateLimited):
		return "The server asks for fewer requests. Wait a moment and run the same command again, with fewer --jobs if it has them."
	case errors.Is(err, tinkex.ErrExists):
		return "Use --force to replace it, or choose another directory with -o."
	case answered && e.Status >= http.StatusInternalServerError:
		return "That is the server's fault. Try again later; its log has more, under the request's number if one is given."
	}
	return ""
}

// baseURLHint is about a server that has nothing where a Tinker server has it.
func (a *app) baseURLHint() string {
	return fmt.Sprintf("Check the base URL, %s (from %s): it is a server's address, without %s.", a.conn.baseURL.value, a.conn.baseURL.from, wire.APIPrefix)
}
