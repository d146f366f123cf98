package wire

// ListEnd is the last line of a stretch of a list, whose other lines are
// items. An answer without it is not whole.
type ListEnd struct {
	// Next is where the list goes on; nil is its end.
	Next *string `json:"next"`
}
