//go:build !amd64

package cpu

import "gonum.org/v1/gonum/blas/blas32"

const useKernels = false

func expKernel(dst, x []float32, scale, shift float32) { expPortable(dst, x, scale, shift) }

func dotKernel(alpha float32, a, b blas32.General, add bool, c blas32.General) {
	dotPortable(alpha, a, b, add, c)
}

func outerKernel(alpha float32, a blas32.General, aTrans bool, b blas32.General, add bool, c blas32.General) {
	outerPortable(alpha, a, aTrans, b, add, c)
}
