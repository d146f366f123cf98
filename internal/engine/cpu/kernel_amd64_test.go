package cpu

import "testing"

// forceGonum turns the kernels off for the rest of a test.
func forceGonum(t *testing.T) {
	was := useKernels
	useKernels = false
	t.Cleanup(func() { useKernels = was })
}
