// Package fsck compares a server's two stores with each other and with
// themselves, and puts aside what is damaged. It needs nothing but the stores
// and may be used beside servers at work on them.
//
// Nothing is taken for a fault at first sight: what the stores say comes from
// different moments, between which checkpoints are saved, overwritten and
// deleted. A blob is at fault for those checkpoints only that referred to it
// before it was looked at and still did afterwards. An id always means the
// same manifest, so these did meanwhile.
//
// A repair deletes nothing that anybody could still want. Damaged bytes move
// to the blob store's quarantine. Checkpoints that lack bytes move to the
// metadata's: nobody sees them, and their names and digests are kept. When
// blobs of these digests are there again, the next repair brings them back.
package fsck
