//go:build !amd64

package cpu

import "testing"

func forcePortable(*testing.T) {}
