//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sync/errgroup"

	"github.com/tinkex/tinkex/bench/internal/harness"
	"github.com/tinkex/tinkex/internal/pyvenv"
)

// loopback measures everybody on the machine itself.
func loopback(ctx context.Context, b *bencher) (_ *harness.Section, err error) {
	// The store, a copy for cp, and what aria2c needs.
	if err := b.free(b.size * 5); err != nil {
		return nil, err
	}
	s, err := b.seed(ctx, "loopback", b.size)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.remove()) }()
	srv, err := harness.Serve(b.binary, s.dataDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, srv.Stop()) }()
	tarURL, err := archiveURL(ctx, srv.URL, s.path)
	if err != nil {
		return nil, err
	}
	section := &harness.Section{Title: humanize.Bytes(uint64(s.size)) + " over loopback"}
	contenders := []contender{b.ours(s, srv.URL, 0), curlTar(tarURL), curlTarSync(tarURL)}
	contenders = append(contenders, b.officialIfThere(s, srv.URL, section)...)
	if venv, err := pyvenv.Pinned(archiveVersion); err != nil {
		section.Note("SKIPPED: tinker %s, which downloads archives: %v.", archiveVersion, err)
	} else {
		contenders = append(contenders, b.officialByArchive(s, srv.URL, venv))
	}
	reference := filepath.Join(b.dir, "reference")
	if err := os.Mkdir(reference, 0o755); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(reference)) }()
	if _, err := contenders[0].get(ctx, reference); err != nil {
		return nil, fmt.Errorf("%s: %w", contenders[0].name, err)
	}
	contenders = append(contenders, aria2Tar(tarURL), copying(reference))
	if err := b.compare(ctx, s, srv, contenders, section); err != nil {
		return section, err
	}
	return section, b.noteDigests(s, reference, section)
}

// noteDigests measures what nobody can be faster than who checks every file's
// SHA-256: the digests alone, of files that are in memory, one file a goroutine,
// since a digest is made of one byte after the other.
func (b *bencher) noteDigests(s *seeded, reference string, section *harness.Section) error {
	dir, err := arrived(reference)
	if err != nil {
		return err
	}
	var walls []time.Duration
	for range b.rounds + 1 {
		began := time.Now()
		var all errgroup.Group
		for _, f := range s.files {
			all.Go(func() error { return verifyFile(dir, f) })
		}
		if err := all.Wait(); err != nil {
			return err
		}
		walls = append(walls, time.Since(began))
	}
	wall := harness.Median(walls[1:]) // the first warms up
	section.Note("SHA-256 of these files alone, all at once and from memory, takes %.2f s here. A download that verifies cannot be faster.", wall.Seconds())
	return nil
}

// officialIfThere is the published command, or a note that it is missing.
func (b *bencher) officialIfThere(s *seeded, url string, section *harness.Section) []contender {
	if b.noVenv != nil {
		b.say("SKIPPED: the published tinker command: %v", b.noVenv)
		section.Note("SKIPPED: the published tinker command: %v.", b.noVenv)
		return nil
	}
	section.Note(officialNote)
	return []contender{b.official(s, url)}
}
