package cpu

import (
	"slices"
	"strings"

	"github.com/tinkex/tinkex/internal/engine"
)

// stopper decides where a sample ends.
type stopper struct {
	tokens  []int32
	strings []string
	longest int // bytes of the longest string
	table   *tokenTable
}

// stopState is one sample's progress: the last bytes of its text, as many as
// can still be the beginning of a stop string.
type stopState struct {
	tail []byte
}

func (s *Sampler) newStopper(req *engine.SampleRequest) (*stopper, error) {
	st := &stopper{tokens: req.StopTokens, strings: req.StopStrings}
	if len(st.tokens) == 0 && len(st.strings) == 0 && !req.NoStop {
		st.tokens = s.base.cfg.eos
	}
	for _, str := range st.strings {
		st.longest = max(st.longest, len(str))
	}
	if len(st.strings) > 0 {
		table, err := s.base.tokenTable()
		if err != nil {
			return nil, err
		}
		st.table = table
	}
	return st, nil
}

// stops reports whether token ends the sample: because it is a stop token, or
// because a stop string ends within it.
func (st *stopper) stops(state *stopState, token int32) bool {
	if slices.Contains(st.tokens, token) {
		return true
	}
	if st.longest == 0 {
		return false
	}
	state.tail = append(state.tail, st.table.text(token)...)
	text := string(state.tail)
	for _, str := range st.strings {
		if strings.Contains(text, str) {
			return true
		}
	}
	if extra := len(state.tail) - (st.longest - 1); extra > 0 {
		state.tail = append(state.tail[:0], state.tail[extra:]...)
	}
	return false
}
