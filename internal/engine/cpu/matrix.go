package cpu

import (
	"runtime"
	"sync"
	"unsafe"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
)

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

// The three products are gonum's. beta is 0 (c is overwritten, whatever it held)
// or 1. Each element of c is computed in an order that depends only on the
// length of its sum, never on the other dimensions, on the processors or on
// where the matrices lie in memory: a row gives the same bits in a batch of one
// and in a batch of a hundred.
//
// Gemm keeps that promise where b is not transposed. It adds rows of b to rows
// of c, one after the other, and the 64×64 blocks that it spreads over
// goroutines from some size on take up the same sums in the same order.
//
// It does not where b is transposed. There it takes dot products, of whole rows
// if c is small and of 64 elements at a time if c is large, and DotUnitary's
// order on amd64 depends on its second argument's place: elements before the
// first multiple of 16 bytes are added one by one. So mulNT uses Gemv, which
// takes whole dot products at any size, with the row of a as that second
// argument, and sees to its place.

// mulNN computes c = alpha·a·b + beta·c for a [m, k], b [k, n], c [m, n].
func mulNN(alpha float32, a, b blas32.General, beta float32, c blas32.General) {
	blas32.Gemm(blas.NoTrans, blas.NoTrans, alpha, a, b, beta, c)
}

// mulTN computes c = alpha·aᵀ·b + beta·c for a [k, m], b [k, n], c [m, n].
func mulTN(alpha float32, a, b blas32.General, beta float32, c blas32.General) {
	blas32.Gemm(blas.Trans, blas.NoTrans, alpha, a, b, beta, c)
}

const (
	// spreadWork is the number of multiplications below which waking another
	// processor costs more than it saves.
	spreadWork = 1 << 20

	// cachedRows is how many rows of b stay in the cache while a passes by.
	cachedRows = 64
)

// mulNT computes c = alpha·a·bᵀ + beta·c for a [m, k], b [n, k], c [m, n]. As
// Gemm does, it spreads a large product over goroutines: by the columns of c,
// since c may have a single row.
func mulNT(alpha float32, a, b blas32.General, beta float32, c blas32.General) {
	parts := min(c.Rows*c.Cols*a.Cols/spreadWork+1, runtime.GOMAXPROCS(0), c.Cols)
	if parts <= 1 {
		mulColumnsNT(alpha, a, b, beta, c)
		return
	}
	var wg sync.WaitGroup
	for i := range parts {
		from, to := i*c.Cols/parts, (i+1)*c.Cols/parts
		wg.Go(func() {
			mulColumnsNT(alpha, a, rows(b, from, to-from), beta, columns(c, from, to-from))
		})
	}
	wg.Wait()
}

func mulColumnsNT(alpha float32, a, b blas32.General, beta float32, c blas32.General) {
	var copied []float32
	for from := 0; from < c.Cols; from += cachedRows {
		n := min(cachedRows, c.Cols-from)
		block := rows(b, from, n)
		for i := range c.Rows {
			x := a.Data[i*a.Stride : i*a.Stride+a.Cols]
			if misaligned(x) != 0 {
				if copied == nil {
					copied = newAligned(a.Cols)
				}
				copy(copied, x)
				x = copied
			}
			y := c.Data[i*c.Stride+from : i*c.Stride+from+n]
			blas32.Gemv(blas.NoTrans, alpha, block, blas32.Vector{N: len(x), Inc: 1, Data: x},
				beta, blas32.Vector{N: n, Inc: 1, Data: y})
		}
	}
}

// misaligned is how many floats x starts after a multiple of 16 bytes.
func misaligned(x []float32) int {
	return int(uintptr(unsafe.Pointer(unsafe.SliceData(x))) % 16 / 4)
}

// newAligned returns n floats that start at a multiple of 16 bytes.
func newAligned(n int) []float32 {
	x := make([]float32, n+3)
	return x[(4-misaligned(x))%4:][:n]
}
