// Package checkpoint holds the workflows of a checkpoint's life that take more
// than one call of the SDK: downloading one safely, importing an adapter made
// elsewhere, checking that one fits before training goes on from it, selecting
// among many, copying, keeping a mirror of them and bringing them back from it,
// and deleting those that are not worth keeping.
//
// Every function takes a context, the part of a *tinkex.RestClient it needs
// and an options struct whose zero value works.
package checkpoint
