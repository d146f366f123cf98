//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sync/errgroup"

	"github.com/tinkex/tinkex/bench/internal/harness"
	"github.com/tinkex/tinkex/bench/internal/link"
)

// The slow link, and how many connections ours may use on it.
const (
	linkRTT  = 50 * time.Millisecond
	linkRate = 20_000_000
	linkJobs = 8
)

// slowLink measures everybody through a link that is far away and slow for
// each connection.
func slowLink(ctx context.Context, b *bencher) (_ *harness.Section, err error) {
	if err := b.free(b.linkSize * 4); err != nil {
		return nil, err
	}
	s, err := b.seed(ctx, "link", b.linkSize)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.remove()) }()
	srv, proxy, err := b.serveThrough(s, link.Options{RTT: linkRTT, Rate: linkRate})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, proxy.Close(), srv.Stop()) }()
	url := "http://" + proxy.Addr()
	tarURL, err := archiveURL(ctx, url, s.path)
	if err != nil {
		return nil, err
	}
	section := &harness.Section{Title: fmt.Sprintf("%s through a link of %v round trip and %s/s a connection",
		humanize.Bytes(uint64(s.size)), linkRTT, humanize.Bytes(linkRate))}
	if err := b.proveLink(ctx, s, tarURL, section); err != nil {
		return nil, err
	}
	contenders := []contender{b.ours(s, url, linkJobs), curlTar(tarURL)}
	contenders = append(contenders, b.officialIfThere(s, url, section)...)
	contenders = append(contenders, aria2Tar(tarURL))
	return section, b.compare(ctx, s, srv, contenders, section)
}

// serveThrough starts a server that hands out the URLs of a link in front of
// it.
func (b *bencher) serveThrough(s *seeded, opts link.Options) (*harness.Server, *link.Proxy, error) {
	proxy, err := link.Listen(opts)
	if err != nil {
		return nil, nil, err
	}
	srv, err := harness.Serve(b.binary, s.dataDir, "--public-url", "http://"+proxy.Addr())
	if err != nil {
		return nil, nil, errors.Join(err, proxy.Close())
	}
	proxy.SetTarget(strings.TrimPrefix(srv.URL, "http://"))
	return srv, proxy, nil
}

// proveLink measures with curl that the link is what it is said to be.
func (b *bencher) proveLink(ctx context.Context, s *seeded, tarURL string, section *harness.Section) error {
	if _, err := exec.LookPath("curl"); err != nil {
		section.Note("SKIPPED: nothing has proved the link: %v.", err)
		return nil
	}
	share := s.size / linkJobs
	fetch := func(i int64, what string) (float64, error) {
		out, err := exec.CommandContext(ctx, "curl", "-sf", "-o", "/dev/null", "-w", what,
			"-r", fmt.Sprintf("%d-%d", i*share, (i+1)*share-1), tarURL).Output()
		if err != nil {
			return 0, fmt.Errorf("curl: %w", err)
		}
		return strconv.ParseFloat(string(out), 64)
	}
	first, err := fetch(0, "%{time_starttransfer}")
	if err != nil {
		return err
	}
	one, err := fetch(0, "%{speed_download}")
	if err != nil {
		return err
	}
	began := time.Now()
	var all errgroup.Group
	for i := range int64(linkJobs) {
		all.Go(func() error {
			_, err := fetch(i, "%{speed_download}")
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	together := float64(share*linkJobs) / time.Since(began).Seconds()
	section.Note("The link is a proxy in this program that delays each direction by half the round trip and limits each connection: see bench/internal/link. "+
		"curl through it: the first byte after %.0f ms, which is two round trips; %s/s with one connection; %s/s with %d at once.",
		1000*first, humanize.Bytes(uint64(one)), humanize.Bytes(uint64(together)), linkJobs)
	return nil
}
