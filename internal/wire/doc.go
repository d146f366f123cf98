// Package wire holds what travels between client and server and is not part of
// the public Go API: paths, headers, the JSON envelopes of requests and of
// internal answers, and the packing of arrays into bytes. The protobuf
// messages are in its sub-package pb.
//
// Facts about the protocol are taken from the published tinker Python package
// (0.38.0): its resources, types and proto modules. Fields a peer does not
// know are ignored on both sides, so newer peers can send more.
package wire
