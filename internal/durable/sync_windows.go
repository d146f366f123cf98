package durable

// SyncDir does nothing: Windows keeps directory entries in the file system's
// own journal and has no call that flushes a directory.
func SyncDir(string) error { return nil }
