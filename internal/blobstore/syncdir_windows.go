package blobstore

// syncDir does nothing: Windows keeps directory entries in the file system's
// own journal and has no call that flushes a directory.
func syncDir(string) error { return nil }
