package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
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

func TestProducts(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	sizes := [][3]int{{1, 1, 1}, {1, 4, 8}, {2, 4, 8}, {3, 5, 7}, {4, 16, 9}, {5, 17, 33}, {7, 23, 64}, {64, 130, 31}, {9, 40, 3}, {200, 70, 12}, {70, 200, 150}, {1, 5000, 300}}
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
}

// A row's bits must not depend on how many others are computed with it, or a
// seeded sample would depend on its neighbours.
func TestProductRowsAreIndependent(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	const m, n, k = 80, 150, 130 // Gemm would be serial for one row, and go by blocks for all
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
}

// Where a matrix lies in memory must not change bits either: a key stands at
// one place in a sequence's activations and at another in a sampler's cache.
func TestProductsDoNotDependOnMemory(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	const m, n, k = 3, 70, 45
	a, b, v, at := randomMatrix(rng, m, k, 0), randomMatrix(rng, n, k, 0), randomMatrix(rng, k, n, 0), randomMatrix(rng, k, m, 0)
	// moved is a copy that starts by floats after a multiple of 16 bytes.
	moved := func(m blas32.General, by int) blas32.General {
		data := newAligned(by + len(m.Data))[by:]
		copy(data, m.Data)
		m.Data = data
		return m
	}
	products := func(by [3]int) []float32 {
		var all []float32
		for _, mul := range []func(c blas32.General){
			func(c blas32.General) { mulNT(0.3, moved(a, by[0]), moved(b, by[1]), 0, c) },
			func(c blas32.General) { mulNN(0.3, moved(a, by[0]), moved(v, by[1]), 0, c) },
			func(c blas32.General) { mulTN(0.3, moved(at, by[0]), moved(v, by[1]), 0, c) },
		} {
			c := moved(newMatrix(m, n), by[2])
			mul(c)
			all = append(all, c.Data...)
		}
		return all
	}
	want := products([3]int{})
	for i := range 4 * 4 * 4 {
		by := [3]int{i % 4, i / 4 % 4, i / 16}
		if !slices.Equal(products(by), want) {
			t.Errorf("a, b and c moved by %d floats give other bits", by)
		}
	}
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
