package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"gonum.org/v1/gonum/blas/blas32"
)

// randomMatrix has a stride wider than its rows, filled with NaN in between:
// a product that reads or writes outside its rows shows.
func randomMatrix(rng *rand.Rand, rows, cols, gap int) blas32.General {
	m := blas32.General{Rows: rows, Cols: cols, Stride: cols + gap, Data: make([]float32, rows*(cols+gap))}
	for i := range m.Data {
		m.Data[i] = float32(math.NaN())
		if i%m.Stride < cols {
			m.Data[i] = float32(rng.NormFloat64())
		}
	}
	m.Data = m.Data[:len(m.Data)-gap]
	return m
}

func cloneMatrix(m blas32.General) blas32.General {
	m.Data = append([]float32(nil), m.Data...)
	return m
}

// product is the plain definition in float64.
func product(alpha float32, a, b func(i, l int) float32, k int, beta float32, c blas32.General) [][]float64 {
	out := make([][]float64, c.Rows)
	for i := range out {
		out[i] = make([]float64, c.Cols)
		for j := range out[i] {
			var sum float64
			for l := range k {
				sum += float64(a(i, l)) * float64(b(l, j))
			}
			out[i][j] = float64(alpha) * sum
			if beta != 0 {
				out[i][j] += float64(c.Data[i*c.Stride+j])
			}
		}
	}
	return out
}

func at(m blas32.General) func(i, j int) float32 {
	return func(i, j int) float32 { return m.Data[i*m.Stride+j] }
}

func transposed(f func(i, j int) float32) func(i, j int) float32 {
	return func(i, j int) float32 { return f(j, i) }
}

// withAndWithoutKernels runs f with portable.go and, if there are any, with
// the kernels for this processor.
func withAndWithoutKernels(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Run("portable", func(t *testing.T) { forcePortable(t); f(t) })
	if useKernels {
		t.Run("kernels", f)
	}
}

func TestProducts(t *testing.T) {
	withAndWithoutKernels(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 2))
		sizes := [][3]int{{1, 1, 1}, {1, 4, 8}, {2, 4, 8}, {3, 5, 7}, {4, 16, 9}, {5, 17, 33}, {7, 23, 64}, {64, 130, 31}, {9, 40, 3}, {200, 70, 12}}
		for _, s := range sizes {
			m, n, k := s[0], s[1], s[2]
			for _, beta := range []float32{0, 1} {
				for _, gap := range []int{0, 3} {
					alpha := float32(0.75)
					c := randomMatrix(rng, m, n, gap)
					check := func(name string, got blas32.General, want [][]float64) {
						t.Helper()
						for i := range want {
							for j, w := range want[i] {
								if g := float64(got.Data[i*got.Stride+j]); !(math.Abs(g-w) < 1e-4*math.Sqrt(float64(k))) {
									t.Fatalf("%s %v beta %v gap %d: [%d,%d] is %v, want %v", name, s, beta, gap, i, j, g, w)
								}
							}
						}
						for i, v := range got.Data {
							if i%got.Stride >= got.Cols && v == v {
								t.Fatalf("%s %v: wrote between the rows", name, s)
							}
						}
					}
					a, b := randomMatrix(rng, m, k, gap), randomMatrix(rng, n, k, gap)
					got := cloneMatrix(c)
					mulNT(alpha, a, b, beta, got)
					check("mulNT", got, product(alpha, at(a), transposed(at(b)), k, beta, c))

					b = randomMatrix(rng, k, n, gap)
					got = cloneMatrix(c)
					mulNN(alpha, a, b, beta, got)
					check("mulNN", got, product(alpha, at(a), at(b), k, beta, c))

					a = randomMatrix(rng, k, m, gap)
					got = cloneMatrix(c)
					mulTN(alpha, a, b, beta, got)
					check("mulTN", got, product(alpha, transposed(at(a)), at(b), k, beta, c))
				}
			}
		}
	})
}

// A row's bits must not depend on how many others are computed with it, or a
// seeded sample would depend on its neighbours.
func TestProductRowsAreIndependent(t *testing.T) {
	withAndWithoutKernels(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(3, 4))
		const m, n, k = 11, 300, 130
		a := randomMatrix(rng, m, k, 0)
		for name, mul := range map[string]func(a, c blas32.General){
			"mulNT": func(a, c blas32.General) {
				mulNT(0.5, a, randomMatrix(rand.New(rand.NewPCG(5, 6)), n, k, 0), 0, c)
			},
			"mulNN": func(a, c blas32.General) {
				mulNN(0.5, a, randomMatrix(rand.New(rand.NewPCG(5, 6)), k, n, 0), 0, c)
			},
		} {
			all := newMatrix(m, n)
			mul(a, all)
			for i := range m {
				one := newMatrix(1, n)
				mul(rows(a, i, 1), one)
				for j, v := range one.Data {
					if v != all.Data[i*n+j] {
						t.Fatalf("%s: [%d,%d] is %v alone and %v among others", name, i, j, v, all.Data[i*n+j])
					}
				}
			}
		}
	})
}

// The kernels and portable.go give the same bits, so that results do not
// depend on the processor's age.
func TestPortableGivesTheKernelsBits(t *testing.T) {
	if !useKernels {
		t.Skip("there are no kernels for this processor")
	}
	rng := rand.New(rand.NewPCG(7, 8))
	equal := func(what string, got, want []float32) {
		t.Helper()
		for i, w := range want {
			if g := got[i]; math.Float32bits(g) != math.Float32bits(w) && (g == g || w == w) {
				t.Fatalf("%s: [%d] is %v by the kernels, %v without", what, i, got[i], w)
			}
		}
	}
	for round := range 300 {
		m, n, k := 1+rng.IntN(19), 1+rng.IntN(37), 1+rng.IntN(150)
		gap, add := rng.IntN(3), round%2 == 0
		c := randomMatrix(rng, m, n, gap)
		compare := func(what string, kernel, portable func(c blas32.General)) {
			t.Helper()
			got, want := cloneMatrix(c), cloneMatrix(c)
			kernel(got)
			portable(want)
			equal(fmt.Sprint(what, " of ", m, "×", n, "×", k), got.Data, want.Data)
		}
		a, b, v, at := randomMatrix(rng, m, k, gap), randomMatrix(rng, n, k, gap), randomMatrix(rng, k, n, gap), randomMatrix(rng, k, m, gap)
		compare("a·bᵀ", func(c blas32.General) { dotKernel(0.3, a, b, add, c) }, func(c blas32.General) { dotPortable(0.3, a, b, add, c) })
		compare("a·b", func(c blas32.General) { outerKernel(0.3, a, false, v, add, c) }, func(c blas32.General) { outerPortable(0.3, a, false, v, add, c) })
		compare("aᵀ·b", func(c blas32.General) { outerKernel(0.3, at, true, v, add, c) }, func(c blas32.General) { outerPortable(0.3, at, true, v, add, c) })
	}
	inf := float32(math.Inf(1))
	x := []float32{0, inf, -inf, float32(math.NaN()), 89, 88.9, 88.7228, -87.33654, -87.33655, 1e-30}
	for range 100_001 {
		x = append(x, rng.Float32()*190-95)
	}
	for _, p := range [][2]float32{{1, 0}, {-1, 0}, {0.37, 1.9}} {
		got, want := make([]float32, len(x)), make([]float32, len(x))
		expKernel(got, x, p[0], p[1])
		expPortable(want, x, p[0], p[1])
		equal("exp", got, want)
	}
}

func TestExp(t *testing.T) {
	withAndWithoutKernels(t, func(t *testing.T) {
		var x []float32
		for v := -88.0; v < 89; v += 0.00137 {
			x = append(x, float32(v))
		}
		for _, n := range []int{1, 7, 8, 9, len(x)} {
			got := make([]float32, n+1)
			got[n] = 42
			expInto(got, x[:n], 1, 0)
			for i, v := range x[:n] {
				want := math.Exp(float64(v))
				if v < -87.33654 {
					want = 0
				}
				if math.Abs(float64(got[i])-want) > 3e-7*want && !(math.IsInf(float64(got[i]), 1) && want > math.MaxFloat32) {
					t.Fatalf("exp(%v) = %v, want %v", v, got[i], want)
				}
			}
			if got[n] != 42 {
				t.Fatalf("exp of %d values wrote past them", n)
			}
		}
		inf := float32(math.Inf(1))
		special := []float32{0, -inf, inf, -1e30, 100, 88.5}
		want := []float32{1, 0, inf, 0, inf, float32(math.Exp(88.5))}
		got := make([]float32, len(special))
		expInto(got, special, 1, 0)
		for i := range want {
			if got[i] != want[i] && !(math.Abs(float64(got[i]/want[i]-1)) < 3e-7) {
				t.Errorf("exp(%v) = %v, want %v", special[i], got[i], want[i])
			}
		}
		nan := []float32{float32(math.NaN())}
		if expInto(nan, nan, 1, 0); nan[0] == nan[0] {
			t.Errorf("exp(NaN) = %v", nan[0])
		}
		y := []float32{1, 2}
		expInto(y, y, -2, 0.5)
		if math.Abs(float64(y[1])-math.Exp(-4.5)) > 1e-8 {
			t.Errorf("exp(-2·2 - 0.5) = %v, want %v", y[1], math.Exp(-4.5))
		}
	})
}

func BenchmarkProducts(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, s := range [][3]int{{64, 448, 128}, {64, 128, 448}, {1, 448, 128}, {512, 1024, 1024}} {
		m, n, k := s[0], s[1], s[2]
		a, w, c := randomMatrix(rng, m, k, 0), randomMatrix(rng, n, k, 0), newMatrix(m, n)
		v := randomMatrix(rng, k, n, 0)
		b.Run(fmt.Sprintf("NT/%dx%dx%d", m, n, k), func(b *testing.B) {
			for b.Loop() {
				mulNT(1, a, w, 0, c)
			}
			b.ReportMetric(2*float64(m*n*k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOPS")
		})
		b.Run(fmt.Sprintf("NN/%dx%dx%d", m, n, k), func(b *testing.B) {
			for b.Loop() {
				mulNN(1, a, v, 0, c)
			}
			b.ReportMetric(2*float64(m*n*k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOPS")
		})
	}
}
