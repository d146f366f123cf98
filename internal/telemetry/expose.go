package telemetry

import (
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
)

// Expose answers /metrics and, if profiles is set, /debug/pprof/, and leaves
// everything else to next. If local is set, only to requests that were sent to
// this machine by name and that no proxy says it forwards; others are left to
// next too.
func (t *Telemetry) Expose(next http.Handler, local, profiles bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", t.Metrics())
	if profiles {
		mux.HandleFunc("/debug/pprof/", pprof.Index) // but not cmdline, which may have secrets in it
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ours := r.URL.Path == "/metrics" || profiles && strings.HasPrefix(r.URL.Path, "/debug/pprof/")
		if ours && (!local || fromThisMachine(r)) {
			mux.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// fromThisMachine reports whether a request that came in by the loopback
// interface began there too, as far as can be told.
func fromThisMachine(r *http.Request) bool {
	for _, forwarded := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Via"} {
		if r.Header.Get(forwarded) != "" {
			return false
		}
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.IsLoopback()
}
