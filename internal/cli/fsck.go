package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/fsck"
	"github.com/tinkex/tinkex/internal/node"
)

type fsckFlags struct {
	storeFlags
	quick   bool
	repair  bool
	discard []string
}

func (a *app) fsckCommand() *cobra.Command {
	var f fsckFlags
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Check everything a server of your own keeps, and repair it",
		Long: `Check the data directory of a server of your own, beside the running server too:
read every blob that is referred to and compare it with its SHA-256, and look
for missing blobs, wrong sizes, incomplete manifests, checkpoints without a run,
counters that disagree with what they count, and files that do not belong.
Unreferenced blobs are no fault; 'tinkex gc' removes them.

--repair deletes no bytes and no checkpoint. Damaged blobs are moved to
the quarantine/ directory. Checkpoints that need them are hidden: nobody sees
them, their names may be used anew, and their manifests are kept. What can be
proven is corrected: counters, sizes. When blobs with the missing digests are
there again, the next --repair brings the checkpoints back as they were.

With -f json the answer is {"quick", "checkpoints", "blobs", "bytes",
"unreferenced_blobs", "unreferenced_bytes", "faults": [{"kind", "what",
"sha256", "checkpoints", "files", "repair"}], "released": [PATH],
"quarantined": [{"tinker_path", "owner", "since", "reason", "missing": [{"name",
"sha256", "size_bytes"}], "obstacle"}]}. Kinds are missing_blob, damaged_blob,
unreadable_blob, wrong_file_size, wrong_size, incomplete_manifest, no_files,
no_run, orphan_files, wrong_counter and stray_file.

Exit status: 0 clean; 1 faults were found, repaired or not; 2 wrong usage;
4 a store could not be reached or read to its end, so that nothing is known of
faults, or no such checkpoint in quarantine; 130 interrupted.`,
		Example: "  tinkex fsck || tinkex fsck --repair",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.fsck(cmd.Context(), f) },
	}
	f.add(cmd.Flags(), true)
	cmd.Flags().BoolVar(&f.quick, "quick", false, "compare sizes, and read only blobs whose size is wrong")
	cmd.Flags().BoolVar(&f.repair, "repair", false, "put aside what is damaged, correct what can be proven, bring back what is whole again")
	cmd.Flags().StringArrayVar(&f.discard, "discard", nil, "give up a checkpoint in quarantine, for good: its tinker path; may be repeated")
	return cmd
}

func (a *app) fsck(ctx context.Context, f fsckFlags) (err error) {
	where, err := f.stores()
	if err != nil {
		return err
	}
	s, err := openStores(ctx, where)
	if err != nil {
		return &noAccessError{err}
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := a.discard(ctx, s, f.discard); err != nil {
		return err
	}
	bars := a.bars(ctx)
	bar := bars.add("blobs")
	r, err := fsck.Run(ctx, fsck.Options{
		Meta: s.meta, Blobs: s.blobs, Quick: f.quick, Repair: f.repair,
		Progress: func(done, total int64) { bar.set(done, total, 0) },
	})
	bar.end(err == nil)
	bars.wait()
	if err != nil {
		return &noAccessError{fmt.Errorf("not everything could be looked at: %w", err)}
	}
	if a.format == "json" {
		err = a.printJSON(r)
	} else {
		err = a.printFsck(r, f, where)
	}
	if err == nil && !r.Clean() {
		err = errSilent
	}
	return err
}

// discard gives checkpoints in quarantine up.
func (a *app) discard(ctx context.Context, s *stores, paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	all, err := s.meta.Quarantined(ctx)
	if err != nil {
		return err
	}
	for _, path := range paths {
		found := false
		for _, z := range all {
			if fsck.PathOf(z.Checkpoint) != path {
				continue
			}
			found = true
			if err := s.meta.DropQuarantined(ctx, z.ID); err != nil {
				return err
			}
			a.say("Discarded %s.", path)
		}
		if !found {
			return &tinkex.Error{
				Op: "discard " + path, Message: "no such checkpoint in quarantine; 'tinkex fsck --quick' shows them",
				Category: tinkex.CategoryUser, Err: tinkex.ErrNotFound,
			}
		}
	}
	return nil
}

// shownCheckpoints bounds how many sufferers of one fault are shown to people.
const shownCheckpoints = 10

func (a *app) printFsck(r fsck.Report, f fsckFlags, where node.Stores) error {
	for _, fault := range r.Faults {
		if err := a.printFault(fault); err != nil {
			return err
		}
	}
	for _, path := range r.Released {
		if err := a.print("back from quarantine: %s\n", path); err != nil {
			return err
		}
	}
	for _, z := range r.Quarantined {
		if err := a.printQuarantined(z, where); err != nil {
			return err
		}
	}
	verdict := "clean"
	if !r.Clean() {
		verdict = plural(len(r.Faults), "fault")
	}
	read := "read"
	if r.Quick {
		read = "looked at, not read"
	}
	aside := ""
	if n := len(r.Quarantined); n > 0 {
		aside = fmt.Sprintf("; %d in quarantine", n)
	}
	err := a.print("%s: %s, %s of %s %s%s\n", verdict, plural(r.Checkpoints, "checkpoint"), plural(r.Blobs, "blob"), size(r.Bytes), read, aside)
	if err != nil {
		return err
	}
	if r.Unreferenced > 0 {
		a.say("%s, %s, unreferenced: 'tinkex gc' removes what nobody needs.", plural(r.Unreferenced, "blob"), size(r.UnreferencedBytes))
	}
	if !r.Clean() && !f.repair {
		a.say("'tinkex fsck --repair' moves what is damaged into quarantine and corrects the rest. It deletes nothing.")
	}
	if len(r.Quarantined) > 0 {
		if slices.ContainsFunc(r.Quarantined, func(z fsck.Quarantined) bool { return len(z.Missing) > 0 }) {
			a.say("To bring a checkpoint back, put its files where it needs them, from a backup or a download, or import\n" +
				"an adapter that has them (tinkex checkpoint import); then 'tinkex fsck --repair' checks them by their SHA-256.")
		}
		a.say("'tinkex fsck --discard PATH' gives a checkpoint in quarantine up for good.")
	}
	return nil
}

func (a *app) printFault(f fsck.Fault) error {
	lines := []string{}
	for i, path := range f.Checkpoints {
		if i == shownCheckpoints {
			lines = append(lines, fmt.Sprintf("            and %d more; -f json shows all", len(f.Checkpoints)-i))
			break
		}
		lines = append(lines, "checkpoint  "+path)
	}
	for i, name := range f.Files {
		if i < shownCheckpoints {
			lines = append(lines, "file        "+name)
		}
	}
	if f.Repair != "" {
		lines = append(lines, "repair      "+f.Repair)
	}
	return a.printIndented(string(f.Kind)+": "+f.What, lines)
}

func (a *app) printQuarantined(z fsck.Quarantined, where node.Stores) error {
	lines := []string{"since       " + exactTime(z.Since) + ": " + z.Reason}
	for _, m := range z.Missing {
		place := "at " + filepath.Join(where.DataDir, blobsDir, "sha256", m.SHA256[:2], m.SHA256)
		if where.Blobs != "" {
			place = "SHA-256 " + m.SHA256 + ": save or import it again"
		}
		lines = append(lines, fmt.Sprintf("needs       %s, %d bytes, %s", m.Name, m.Size, place))
	}
	switch {
	case z.Obstacle != "":
		lines = append(lines, "obstacle    "+z.Obstacle)
	case z.Ready():
		lines = append(lines, "ready       'tinkex fsck --repair' brings it back")
	}
	return a.printIndented("in quarantine: "+z.Path, lines)
}

func (a *app) printIndented(title string, lines []string) error {
	if err := a.print("%s\n", title); err != nil {
		return err
	}
	for _, l := range lines {
		if err := a.print("    %s\n", l); err != nil {
			return err
		}
	}
	return nil
}
