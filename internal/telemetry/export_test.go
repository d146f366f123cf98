package telemetry

import "github.com/prometheus/client_golang/prometheus"

// Own returns the collectors of what this package names.
func (t *Telemetry) Own() []prometheus.Collector { return t.own }
