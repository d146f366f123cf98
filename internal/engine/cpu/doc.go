// Package cpu is the embedded engine: real LoRA training and sampling in Go,
// with nothing else installed.
//
// It runs decoder-only transformers as Hugging Face directories hold them
// (Llama and Qwen3 architectures; config.json and safetensors in f32, bf16 or
// f16). With no directory configured it offers [TinyModel], a byte-level model
// of about a million random parameters, which makes every call of the training
// API real without a download.
//
// # Computation
//
// Everything is float32, except sums that a result hangs on (losses, norms,
// softmax denominators), which are float64. Base weights are read-only and
// shared; only the LoRA matrices have gradients, though these flow through the
// whole network. Activations are kept for the backward pass, or recomputed
// layer by layer when keeping them would take too much memory; the two give
// the same bits.
//
// Matrices are gonum's, but their products are this package's own: a training
// step of [TinyModel] with gonum's takes about four times as long on amd64 with
// AVX2 (117 ms against 30 ms, and 240 ms against 54 ms on a busy processor).
// Where there is no AVX2, portable.go gives the bits that the assembly gives;
// it is about as fast as gonum is without assembly of its own.
//
// # Determinism
//
// Results do not depend on GOMAXPROCS, on load, or on how work was spread:
// a datum is computed by one goroutine from start to end, and the gradients of
// a batch are added up in the batch's order. Matrix products compute each
// element in an order that depends on the length of the sum alone.
package cpu
