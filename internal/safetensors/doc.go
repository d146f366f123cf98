// Package safetensors reads and writes the safetensors file format: a
// little-endian length, a JSON header that names tensors with their element
// type, shape and byte range, and the tensors' bytes.
//
// Reading is random access over an io.ReaderAt and trusts nothing: a header is
// rejected unless it describes every byte of the file exactly once. Writing is
// deterministic: the same tensors always give the same bytes.
//
// The format's reference is https://github.com/huggingface/safetensors.
package safetensors
