// Package archive handles tar archives in both directions without ever having
// one on disk.
//
// A [Body] is an archive to be sent: it is computed from a list of entries,
// knows its size beforehand and can produce any range of its bytes, always the
// same ones. [Serve] answers an HTTP request with it. Its costs depend on the
// number of entries and not on their sizes.
//
// [Extract] receives an archive from a stranger: it unpacks a stream into a
// directory and refuses whatever could end up elsewhere, mean different things
// on different systems or never end.
//
// Both sides go by the same rules for names, so nothing is served that would
// be refused on arrival.
package archive
