package server

import (
	"encoding/json"
	"io"

	"github.com/danielgtaylor/huma/v2"
)

// jsonFormat reads JSON as the protocol's clients write it: a null is the same
// as leaving the field out, for every field.
var jsonFormat = huma.Format{
	Marshal: func(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) },
	Unmarshal: func(data []byte, v any) error {
		if err := json.Unmarshal(data, v); err != nil {
			return err
		}
		// The form that is validated against the schema.
		if loose, ok := v.(*any); ok {
			dropNulls(*loose)
		}
		return nil
	},
}

func dropNulls(v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if x == nil {
				delete(v, k)
				continue
			}
			dropNulls(x)
		}
	case []any:
		for _, x := range v {
			dropNulls(x)
		}
	}
}
