package cpu

import "testing"

// forcePortable turns the kernels off for the rest of a test.
func forcePortable(t *testing.T) {
	was := useKernels
	useKernels = false
	t.Cleanup(func() { useKernels = was })
}
