// Package pb holds the protocol's protobuf messages, generated from
// tinker_public.proto.
package pb

//go:generate protoc --go_out=. --go_opt=paths=source_relative tinker_public.proto
