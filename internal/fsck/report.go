package fsck

import (
	"time"

	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/registry"
)

// Kind is what is wrong.
type Kind string

// The kinds of fault.
const (
	MissingBlob        Kind = "missing_blob"
	DamagedBlob        Kind = "damaged_blob"        // its bytes have another digest
	UnreadableBlob     Kind = "unreadable_blob"     // reading it fails
	WrongFileSize      Kind = "wrong_file_size"     // the manifest's is not the blob's
	WrongSize          Kind = "wrong_size"          // size_bytes is not the sum of the files
	IncompleteManifest Kind = "incomplete_manifest" // files are missing between others
	NoFiles            Kind = "no_files"
	NoRun              Kind = "no_run"
	OrphanFiles        Kind = "orphan_files" // of no checkpoint
	WrongCounter       Kind = "wrong_counter"
	StrayFile          Kind = "stray_file" // it is no blob
)

// Fault is something that is wrong.
type Fault struct {
	Kind Kind `json:"kind"`
	// What says what is wrong in one sentence.
	What string `json:"what"`
	// Digest is the blob's, if it is about one.
	Digest string `json:"sha256,omitempty"`
	// Checkpoints are those that suffer, as tinker paths, and Files what is
	// wrong of them.
	Checkpoints []string `json:"checkpoints,omitempty"`
	Files       []string `json:"files,omitempty"`
	// Repair is what was done. It is empty if nothing was.
	Repair string `json:"repair,omitempty"`
}

// Quarantined is a checkpoint in quarantine.
type Quarantined struct {
	Path   string    `json:"tinker_path"`
	Owner  string    `json:"owner"`
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`
	// Missing are the files whose bytes are not there.
	Missing []MissingFile `json:"missing,omitempty"`
	// Obstacle is what else keeps it from coming back.
	Obstacle string `json:"obstacle,omitempty"`
}

// Ready reports whether a repair would bring it back.
func (z Quarantined) Ready() bool { return len(z.Missing) == 0 && z.Obstacle == "" }

// MissingFile is a file whose bytes would have to be there again.
type MissingFile struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size_bytes"`
}

// Report is what was found and done.
type Report struct {
	Quick       bool  `json:"quick"`
	Checkpoints int   `json:"checkpoints"`
	Blobs       int   `json:"blobs"` // referenced
	Bytes       int64 `json:"bytes"` // of these
	// Unreferenced blobs are no fault: they are the garbage collector's.
	Unreferenced      int   `json:"unreferenced_blobs"`
	UnreferencedBytes int64 `json:"unreferenced_bytes"`

	Faults []Fault `json:"faults"`
	// Released came back from quarantine; Quarantined are in it now.
	Released    []string      `json:"released"`
	Quarantined []Quarantined `json:"quarantined"`
}

// Clean reports whether nothing is wrong.
func (r Report) Clean() bool { return len(r.Faults) == 0 }

// PathOf is a checkpoint's tinker path.
func PathOf(c metastore.Checkpoint) string {
	return registry.Ref{RunID: c.RunID, Kind: c.Kind, Name: c.Name}.String()
}
