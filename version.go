package tinkex

// Version is this module's version, sent as the User-Agent "tinkex-go/<version>".
const Version = "0.1.0"

// protocolVersion is the release of the official Python SDK whose wire
// behaviour this package follows. It is sent as sdk_version, by which servers
// decide what a client understands.
const protocolVersion = "0.38.0"
