// Package hfhub speaks the HTTP API of the Hugging Face Hub as far as it takes
// to commit files to a model repository: who the token belongs to, making a
// repository or a branch, which way each file has to take, large files by the
// LFS protocol (in one piece or in parts), and the commit itself.
//
// It finds the token and the endpoint where the huggingface_hub Python package
// finds them, and as that does sees to it that the token does not end: see
// FindToken. The token is sent to the endpoint and nowhere else, and neither it,
// nor what it is got with, nor a signed URL is ever part of an error or a log
// line. Memory does not grow with the files.
//
// What is said of the protocol here follows the huggingface_hub package 2.4.
package hfhub
