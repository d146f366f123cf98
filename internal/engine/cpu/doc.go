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
// Matrices and their products are gonum's, and exponentials are package math's:
// nothing here is written for one kind of processor.
//
// # Determinism
//
// Results do not depend on GOMAXPROCS, on load, or on how work was spread:
// a datum is computed by one goroutine from start to end, which shares out
// nothing but the elements of large products, and the gradients of a batch are
// added up in the batch's order. Matrix products compute each element in an
// order that depends on the length of the sum alone; gonum's are called so that
// they do (see matrix.go). Another processor architecture may round differently.
package cpu
