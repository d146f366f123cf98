package cpu

import (
	"golang.org/x/sys/cpu"
	"gonum.org/v1/gonum/blas/blas32"
)

// useKernels: the processor has what kernel_amd64.s needs. Other processors
// give the same bits by portable.go.
var useKernels = cpu.X86.HasAVX2

// The kernels compute alpha·(sum of products), plus what c held if add is not
// zero. Strides are in bytes. A sum of products goes over k in order: the dot
// kernels keep eight partial sums, of every eighth product, and the outer
// kernels one. mask points to eight words of which the first k mod 8 are -1
// and the others 0; it is nil if k is a multiple of 8.

// dot2x4 computes c [2·pairs, 4] from a [2·pairs, k] and b [4, k].
//
//go:noescape
func dot2x4(pairs int, c *float32, ldc uintptr, a *float32, lda uintptr, b *float32, ldb uintptr, k int, mask *[8]int32, alpha float32, add int32)

// dot1x4 computes c [1, 4·quads] from a [1, k] and b [4·quads, k].
//
//go:noescape
func dot1x4(quads int, c *float32, a *float32, b *float32, ldb uintptr, k int, mask *[8]int32, alpha float32, add int32)

// dot1 returns the plain sum of products of a [k] and b [k].
//
//go:noescape
func dot1(a, b *float32, k int, mask *[8]int32) float32

// outer4x16 computes c [4·quads, 16] from a, whose elements are aRow and aCol
// bytes apart, and b [k, 16].
//
//go:noescape
func outer4x16(quads int, c *float32, ldc uintptr, a *float32, aRow, aCol uintptr, b *float32, ldb uintptr, k int, alpha float32, add int32)

// outer1x16 is outer4x16 for a single row.
//
//go:noescape
func outer1x16(c *float32, a *float32, aCol uintptr, b *float32, ldb uintptr, k int, alpha float32, add int32)

// outer4x8 is outer4x16 for the columns that mask selects of the next eight.
//
//go:noescape
func outer4x8(quads int, c *float32, ldc uintptr, a *float32, aRow, aCol uintptr, b *float32, ldb uintptr, k int, mask *[8]int32, alpha float32, add int32)

// outer1x8 is outer4x8 for a single row.
//
//go:noescape
func outer1x8(c *float32, a *float32, aCol uintptr, b *float32, ldb uintptr, k int, mask *[8]int32, alpha float32, add int32)

// expVector writes exp(scale·x - shift) for n elements. mask is as above, for
// n mod 8.
//
//go:noescape
func expVector(dst, x *float32, n int, mask *[8]int32, scale, shift float32)

// expKernel is expInto for slices that are not empty.
func expKernel(dst, x []float32, scale, shift float32) {
	n := len(x)
	var mask *[8]int32
	if n%8 != 0 {
		mask = &masks[n%8]
	}
	_ = dst[n-1]
	expVector(&dst[0], &x[0], n, mask, scale, shift)
}

// masks[n] selects the first n of eight lanes.
var masks = func() (m [9][8]int32) {
	for n := range m {
		for i := range n {
			m[n][i] = -1
		}
	}
	return m
}()

// dotKernel computes c = alpha·a·bᵀ, plus c if add is set. The matrices must
// not be empty.
func dotKernel(alpha float32, a, b blas32.General, add bool, c blas32.General) {
	k := a.Cols
	checkSizes(a, c.Rows, k)
	checkSizes(b, c.Cols, k)
	checkSizes(c, c.Rows, c.Cols)
	var mask *[8]int32
	if k%8 != 0 {
		mask = &masks[k%8]
	}
	var addFlag int32
	if add {
		addFlag = 1
	}
	pairs, quads := c.Rows/2, c.Cols/4
	if pairs > 0 {
		// Columns outside, rows inside: four rows of b stay in the first-level
		// cache while a passes by.
		for j := range quads {
			dot2x4(pairs, &c.Data[4*j], 4*uintptr(c.Stride), &a.Data[0], 4*uintptr(a.Stride),
				&b.Data[4*j*b.Stride], 4*uintptr(b.Stride), k, mask, alpha, addFlag)
		}
	}
	if i := 2 * pairs; i < c.Rows && quads > 0 {
		dot1x4(quads, &c.Data[i*c.Stride], &a.Data[i*a.Stride], &b.Data[0], 4*uintptr(b.Stride), k, mask, alpha, addFlag)
	}
	for j := 4 * quads; j < c.Cols; j++ {
		for i := range c.Rows {
			// Rounded before the addition, as the vector kernels do.
			v := float32(alpha * dot1(&a.Data[i*a.Stride], &b.Data[j*b.Stride], k, mask))
			if add {
				v += c.Data[i*c.Stride+j]
			}
			c.Data[i*c.Stride+j] = v
		}
	}
}

// outerKernel computes c = alpha·a·b, or alpha·aᵀ·b, plus c if add is set. The
// matrices must not be empty.
func outerKernel(alpha float32, a blas32.General, aTrans bool, b blas32.General, add bool, c blas32.General) {
	aRow, aCol, k := a.Stride, 1, a.Cols
	if aTrans {
		aRow, aCol, k = 1, a.Stride, a.Rows
		checkSizes(a, k, c.Rows)
	} else {
		checkSizes(a, c.Rows, k)
	}
	checkSizes(b, k, c.Cols)
	checkSizes(c, c.Rows, c.Cols)
	var addFlag int32
	if add {
		addFlag = 1
	}
	aRowB, aColB, ldb, ldc := 4*uintptr(aRow), 4*uintptr(aCol), 4*uintptr(b.Stride), 4*uintptr(c.Stride)
	quads := c.Rows / 4
	j := 0
	for ; j+16 <= c.Cols; j += 16 {
		if quads > 0 {
			outer4x16(quads, &c.Data[j], ldc, &a.Data[0], aRowB, aColB, &b.Data[j], ldb, k, alpha, addFlag)
		}
		for i := 4 * quads; i < c.Rows; i++ {
			outer1x16(&c.Data[i*c.Stride+j], &a.Data[i*aRow], aColB, &b.Data[j], ldb, k, alpha, addFlag)
		}
	}
	for ; j < c.Cols; j += 8 {
		mask := &masks[min(8, c.Cols-j)]
		if quads > 0 {
			outer4x8(quads, &c.Data[j], ldc, &a.Data[0], aRowB, aColB, &b.Data[j], ldb, k, mask, alpha, addFlag)
		}
		for i := 4 * quads; i < c.Rows; i++ {
			outer1x8(&c.Data[i*c.Stride+j], &a.Data[i*aRow], aColB, &b.Data[j], ldb, k, mask, alpha, addFlag)
		}
	}
}

// checkSizes panics unless m is rows×cols and its data is long enough: the
// kernels themselves check nothing.
func checkSizes(m blas32.General, rows, cols int) {
	if m.Rows != rows || m.Cols != cols || m.Stride < cols || len(m.Data) < (rows-1)*m.Stride+cols {
		panic("cpu: matrix sizes do not agree")
	}
}
