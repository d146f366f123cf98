// Package transfer reads files over HTTP as fast as a link permits: in ranges,
// several at once, into a window of fixed size, from which they come out in
// order.
//
// It works against any server. One that honours ranges is read in parallel and
// from any offset; one that does not is read as a single stream, which is
// begun anew, and its first part skipped, when it breaks. What can pass is
// tried again, from the byte it stopped at; URLs that expire are renewed; a
// file that is no longer the one that was begun is [ErrChanged].
//
// Nothing here touches a disk or knows what the bytes mean.
package transfer
