package cpu

import "gonum.org/v1/gonum/blas/blas32"

func newMatrix(rows, cols int) blas32.General {
	return matrix(make([]float32, rows*cols), rows, cols)
}

// matrix views dense row-major data as a matrix.
func matrix(data []float32, rows, cols int) blas32.General {
	return blas32.General{Rows: rows, Cols: cols, Stride: cols, Data: data}
}

// columns views columns [from, from+n) of rows [0, m.Rows) of m.
func columns(m blas32.General, from, n int) blas32.General {
	end := 0
	if m.Rows > 0 {
		end = (m.Rows-1)*m.Stride + from + n
	}
	return blas32.General{Rows: m.Rows, Cols: n, Stride: m.Stride, Data: m.Data[from:max(from, end)]}
}

// rows views rows [from, from+n) of m.
func rows(m blas32.General, from, n int) blas32.General {
	v := blas32.General{Rows: n, Cols: m.Cols, Stride: m.Stride}
	if n > 0 {
		v.Data = m.Data[from*m.Stride : (from+n-1)*m.Stride+m.Cols]
	}
	return v
}

// The three products. beta is 0 (c is overwritten, whatever it held) or 1.
// Each element of c is computed in an order that depends only on the length of
// its sum, never on the other dimensions: a row gives the same bits in a batch
// of one and in a batch of a hundred.

// mulNT computes c = alpha·a·bᵀ + beta·c for a [m, k], b [n, k], c [m, n].
func mulNT(alpha float32, a, b blas32.General, beta float32, c blas32.General) {
	if useKernels && notEmpty(a, c) {
		dotKernel(alpha, a, b, beta != 0, c)
		return
	}
	dotPortable(alpha, a, b, beta != 0, c)
}

// mulNN computes c = alpha·a·b + beta·c for a [m, k], b [k, n], c [m, n].
func mulNN(alpha float32, a, b blas32.General, beta float32, c blas32.General) {
	if useKernels && notEmpty(a, c) {
		outerKernel(alpha, a, false, b, beta != 0, c)
		return
	}
	outerPortable(alpha, a, false, b, beta != 0, c)
}

// mulTN computes c = alpha·aᵀ·b + beta·c for a [k, m], b [k, n], c [m, n].
func mulTN(alpha float32, a, b blas32.General, beta float32, c blas32.General) {
	if useKernels && notEmpty(a, c) {
		outerKernel(alpha, a, true, b, beta != 0, c)
		return
	}
	outerPortable(alpha, a, true, b, beta != 0, c)
}

// notEmpty: there is something to compute, and no sum is of nothing.
func notEmpty(a, c blas32.General) bool {
	return a.Rows > 0 && a.Cols > 0 && c.Rows > 0 && c.Cols > 0
}
