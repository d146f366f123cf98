// Package drivers gives package blobstore the clients of the object stores: S3,
// Azure and, in builds with the tag gcs, Google Cloud. They are apart because
// they are larger than everything that uses them.
package drivers

import _ "gocloud.dev/blob/azureblob" // azblob://
