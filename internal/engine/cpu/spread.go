package cpu

import (
	"sync"

	"gonum.org/v1/gonum/blas/blas32"
)

// spreadWork is the number of multiplications below which waking another
// processor costs more than it saves.
const spreadWork = 4 << 20

// spread calls f for pieces of [0, n) that together cover it: on the calling
// goroutine, which holds a slot, and on as many others as there are slots free
// at this moment. f's results must not depend on the pieces.
func (e *Engine) spread(work, n int, f func(from, to int)) {
	helpers := 0
	for most := min(cap(e.slots), work/spreadWork+1, n) - 1; helpers < most; helpers++ {
		select {
		case e.slots <- struct{}{}:
			continue
		default:
		}
		break
	}
	if helpers == 0 {
		f(0, n)
		return
	}
	const grain = 4 // the kernels' blocks
	piece := (n/(helpers+1) + grain) / grain * grain
	var wg sync.WaitGroup
	for i := range helpers {
		from, to := min((i+1)*piece, n), min((i+2)*piece, n)
		if i == helpers-1 {
			to = n
		}
		wg.Go(func() {
			defer e.release()
			f(from, to)
		})
	}
	f(0, min(piece, n))
	wg.Wait()
}

// mulNT, mulNN and mulTN are the products of the same names, spread over idle
// processors: by the rows of c, or by its columns if it has a single row.

func (p *pass) mulNT(alpha float32, a, b blas32.General, beta float32, c blas32.General) {
	work := c.Rows * c.Cols * a.Cols
	switch {
	case work < spreadWork:
		mulNT(alpha, a, b, beta, c)
	case c.Rows < 8:
		p.e.spread(work, c.Cols, func(from, to int) {
			mulNT(alpha, a, rows(b, from, to-from), beta, columns(c, from, to-from))
		})
	default:
		p.e.spread(work, c.Rows, func(from, to int) {
			mulNT(alpha, rows(a, from, to-from), b, beta, rows(c, from, to-from))
		})
	}
}

func (p *pass) mulNN(alpha float32, a, b blas32.General, beta float32, c blas32.General) {
	work := c.Rows * c.Cols * a.Cols
	if work < spreadWork {
		mulNN(alpha, a, b, beta, c)
		return
	}
	p.e.spread(work, c.Rows, func(from, to int) {
		mulNN(alpha, rows(a, from, to-from), b, beta, rows(c, from, to-from))
	})
}

func (p *pass) mulTN(alpha float32, a, b blas32.General, beta float32, c blas32.General) {
	work := c.Rows * c.Cols * a.Rows
	if work < spreadWork {
		mulTN(alpha, a, b, beta, c)
		return
	}
	p.e.spread(work, c.Rows, func(from, to int) {
		mulTN(alpha, columns(a, from, to-from), b, beta, rows(c, from, to-from))
	})
}
