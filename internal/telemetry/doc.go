// Package telemetry measures and traces a server from the outside: it wraps
// the stores, the engine and the HTTP handler, whose own code knows nothing of
// it, and reads from the registry what only that can count.
//
// Metrics are Prometheus's, in a registry of their own; every name is in the
// table of docs/guides/observability.md, and a test compares the two. Labels
// take values from fixed sets only: route patterns and never paths, names of
// operations and never ids. Traces are OpenTelemetry's. Neither an attribute
// nor a label ever carries a credential, a query string, or what a request is
// about: no prompt, no text, no name of an owner.
package telemetry
