// Package buckets lets checkpoint.Mirror, VerifyMirror and Restore work on
// object stores: s3://BUCKET and azblob://CONTAINER and, in programs built with
// the tag gcs, gs://BUCKET. It is for a program to import for that effect:
//
//	import _ "github.com/tinkex/tinkex/checkpoint/buckets"
//
// Without it they work on directories, and the program is some 18 MB smaller.
package buckets

import _ "github.com/tinkex/tinkex/internal/blobstore/drivers" // what the URLs stand for
