//go:build !amd64

package cpu

import "testing"

func forceGonum(*testing.T) {}
