package tinkex

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// invalid is the error of input that is refused before anything is sent.
func invalid(op, format string, args ...any) *Error {
	return &Error{Op: op, Category: CategoryUser, Err: ErrInvalid, Message: fmt.Sprintf(format, args...)}
}

// withOp says what was being done, if err does not.
func withOp(op string, err error) error {
	var e *Error
	if errors.As(err, &e) && e.Op == "" {
		copied := *e
		copied.Op = op
		return &copied
	}
	return err
}

// validateData checks what the protocol demands of any batch; what the loss
// function and the model demand is the server's to check.
func validateData(data []Datum) error {
	if len(data) == 0 {
		return fmt.Errorf("the batch is empty")
	}
	for i, d := range data {
		if err := validateInput(d.ModelInput); err != nil {
			return fmt.Errorf("data[%d]: %w", i, err)
		}
		if len(d.LossFnInputs) == 0 {
			return fmt.Errorf("data[%d]: there are no loss function inputs", i)
		}
		for name, t := range d.LossFnInputs {
			if name == "" {
				return fmt.Errorf("data[%d]: a loss function input has no name", i)
			}
			if err := t.validate(); err != nil {
				return fmt.Errorf("data[%d]: %s: %w", i, name, err)
			}
		}
		target, ok := d.LossFnInputs["target_tokens"]
		weights, ok2 := d.LossFnInputs["weights"]
		if ok && ok2 && !sameShape(target.shape(), weights.shape()) {
			return fmt.Errorf("data[%d]: weights has shape %v but target_tokens has %v", i, weights.shape(), target.shape())
		}
	}
	return nil
}

func validateInput(m ModelInput) error {
	if len(m.Chunks) == 0 {
		return fmt.Errorf("the model input is empty")
	}
	for i, c := range m.Chunks {
		switch c := c.(type) {
		case TokenChunk:
			if len(c) == 0 {
				return fmt.Errorf("chunk %d has no tokens", i)
			}
			for j, id := range c {
				if id < 0 {
					return fmt.Errorf("chunk %d: token %d is %d, which is negative", i, j, id)
				}
			}
		case ImageChunk:
			if len(c.Data) == 0 {
				return fmt.Errorf("chunk %d is an image without data", i)
			}
			if c.Format != "png" && c.Format != "jpeg" {
				return fmt.Errorf("chunk %d is an image of format %q; png and jpeg are allowed", i, c.Format)
			}
		default:
			return fmt.Errorf("chunk %d is a %T", i, c)
		}
	}
	return nil
}

// shape is Shape or what stands for it.
func (t TensorData) shape() []int {
	if t.Shape == nil {
		return []int{t.Len()}
	}
	return t.Shape
}

func (t TensorData) validate() error {
	if t.Float32 != nil && t.Int64 != nil {
		return fmt.Errorf("the tensor has both float32 and int64 values")
	}
	size := 1
	for _, n := range t.shape() {
		if n < 0 || n > 0 && size > math.MaxInt/n {
			return fmt.Errorf("shape %v is impossible", t.Shape)
		}
		size *= n
	}
	if t.CrowIndices == nil && t.ColIndices == nil {
		if size != t.Len() {
			return fmt.Errorf("shape %v holds %d values, not %d", t.Shape, size, t.Len())
		}
		return nil
	}
	return t.validateSparse()
}

// validateSparse checks the CSR layout.
func (t TensorData) validateSparse() error {
	if t.CrowIndices == nil || t.ColIndices == nil && t.Len() > 0 {
		return fmt.Errorf("a sparse tensor needs both CrowIndices and ColIndices")
	}
	if len(t.Shape) != 2 {
		return fmt.Errorf("a sparse tensor has two dimensions, not shape %v", t.Shape)
	}
	rows, cols, n := t.Shape[0], int64(t.Shape[1]), int64(t.Len())
	if len(t.CrowIndices) != rows+1 || t.CrowIndices[0] != 0 || t.CrowIndices[rows] != n {
		return fmt.Errorf("CrowIndices of %d rows and %d values are %d numbers from 0 to %d", rows, n, rows+1, n)
	}
	if int64(len(t.ColIndices)) != n {
		return fmt.Errorf("there are %d ColIndices for %d values", len(t.ColIndices), n)
	}
	for i := range rows {
		from, to := t.CrowIndices[i], t.CrowIndices[i+1]
		if to < from || to > n {
			return fmt.Errorf("CrowIndices[%d] is %d after %d", i+1, to, from)
		}
		for j := from; j < to; j++ {
			if c := t.ColIndices[j]; c < 0 || c >= cols || j > from && c <= t.ColIndices[j-1] {
				return fmt.Errorf("ColIndices[%d] is %d: within a row they rise, from 0 to %d", j, c, cols-1)
			}
		}
	}
	return nil
}

func sameShape(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// ttlSeconds converts a lifetime; zero is nil, for ever. Fractions of a second
// are rounded up, so that nothing expires before it should.
func ttlSeconds(ttl time.Duration) (*int64, error) {
	switch {
	case ttl < 0:
		return nil, fmt.Errorf("the TTL %v is negative", ttl)
	case ttl == 0:
		return nil, nil
	}
	n := int64(ttl / time.Second)
	if ttl%time.Second > 0 {
		n++
	}
	return &n, nil
}
