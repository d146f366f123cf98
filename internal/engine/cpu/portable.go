package cpu

import "gonum.org/v1/gonum/blas/blas32"

// The functions below give the bits of the kernels, on every processor: each
// sum goes in the kernels' order, and float32(x*y) is rounded by itself where
// the compiler could otherwise fuse it with an addition.

// dotPortable is dotKernel.
func dotPortable(alpha float32, a, b blas32.General, add bool, c blas32.General) {
	for i := range c.Rows {
		out := c.Data[i*c.Stride : i*c.Stride+c.Cols]
		x := a.Data[i*a.Stride : i*a.Stride+a.Cols]
		for j := range out {
			v := float32(alpha * sumProducts(x, b.Data[j*b.Stride:j*b.Stride+a.Cols]))
			if add {
				v += out[j]
			}
			out[j] = v
		}
	}
}

// sumProducts keeps eight partial sums, of every eighth product.
func sumProducts(x, y []float32) float32 {
	var s0, s1, s2, s3, s4, s5, s6, s7 float32
	for len(x) >= 8 && len(y) >= 8 {
		s0 += float32(x[0] * y[0])
		s1 += float32(x[1] * y[1])
		s2 += float32(x[2] * y[2])
		s3 += float32(x[3] * y[3])
		s4 += float32(x[4] * y[4])
		s5 += float32(x[5] * y[5])
		s6 += float32(x[6] * y[6])
		s7 += float32(x[7] * y[7])
		x, y = x[8:], y[8:]
	}
	rest := [8]float32{s0, s1, s2, s3, s4, s5, s6, s7}
	for i, v := range x {
		rest[i] += float32(v * y[i])
	}
	return ((rest[0] + rest[1]) + (rest[2] + rest[3])) + ((rest[4] + rest[5]) + (rest[6] + rest[7]))
}

// outerPortable is outerKernel.
func outerPortable(alpha float32, a blas32.General, aTrans bool, b blas32.General, add bool, c blas32.General) {
	aRow, aCol, k := a.Stride, 1, a.Cols
	if aTrans {
		aRow, aCol, k = 1, a.Stride, a.Rows
	}
	for i := range c.Rows {
		out := c.Data[i*c.Stride : i*c.Stride+c.Cols]
		for len(out) > 0 {
			n := min(8, len(out))
			from := c.Cols - len(out)
			var s [8]float32
			for l := range k {
				v, row := a.Data[i*aRow+l*aCol], b.Data[l*b.Stride+from:]
				if n == 8 {
					row = row[:8]
					s[0] += float32(v * row[0])
					s[1] += float32(v * row[1])
					s[2] += float32(v * row[2])
					s[3] += float32(v * row[3])
					s[4] += float32(v * row[4])
					s[5] += float32(v * row[5])
					s[6] += float32(v * row[6])
					s[7] += float32(v * row[7])
					continue
				}
				for j, w := range row[:n] {
					s[j] += float32(v * w)
				}
			}
			for j, sum := range s[:n] {
				sum = float32(alpha * sum)
				if add {
					sum += out[j]
				}
				out[j] = sum
			}
			out = out[n:]
		}
	}
}

// expPortable is expKernel.
func expPortable(dst, x []float32, scale, shift float32) {
	dst = dst[:len(x)]
	for i, v := range x {
		dst[i] = exp32(float32(scale*v) - shift)
	}
}
