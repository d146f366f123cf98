package cli

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
	"github.com/tinkex/tinkex/internal/metastore"
	"github.com/tinkex/tinkex/internal/server"
)

func (a *app) keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Manage the keys of a server of your own",
		Long: `Manage the API keys of a server of your own. The commands work on its data
directory or database, beside a running server too, which follows within
seconds.

From the first key on, the server accepts no others.` + "\n" + exitStatusHelp,
	}
	var f storeFlags
	f.add(cmd.PersistentFlags(), false)
	// withMeta runs a command with the server's metadata open. Only the command
	// that makes the first key, which may come before the server, makes the
	// data directory too.
	withMeta := func(do func(ctx context.Context, meta metastore.Store, args []string) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			stores, err := f.stores()
			if err != nil {
				return err
			}
			if stores.DB == "" && cmd.Name() == "create" {
				if err := os.MkdirAll(stores.DataDir, 0o700); err != nil {
					return fmt.Errorf("data directory: %w", err)
				}
			} else if stores.DB == "" {
				if _, err := os.Stat(filepath.Join(stores.DataDir, metaFile)); errors.Is(err, fs.ErrNotExist) {
					return usagef("--data-dir: there is no %s in %s: expected the directory that tinkex serve keeps its data in", metaFile, stores.DataDir)
				}
			}
			meta, err := stores.OpenMeta(cmd.Context())
			if err != nil {
				return err
			}
			return errors.Join(do(cmd.Context(), meta, args), meta.Close())
		}
	}
	var name, owner string
	create := &cobra.Command{
		Use: "create", Short: "Create a key and print it, once", Args: cobra.NoArgs,
		Long: "Create a key and print it, once: only its hash is kept.\n\nWith -f json the answer is {\"id\", \"key\", \"owner\"}.\n" + exitStatusHelp,
		RunE: withMeta(func(ctx context.Context, meta metastore.Store, _ []string) error {
			return a.createKey(ctx, meta, name, owner)
		}),
	}
	create.Flags().StringVar(&name, "name", "", "what the key is for")
	create.Flags().StringVar(&owner, "owner", "", "owner of what is made with the key; several keys may share one (default: the key's own)")
	cmd.AddCommand(create,
		&cobra.Command{
			Use: "list", Short: "List the keys", Args: cobra.NoArgs,
			Long: "List the keys, revoked ones too.\n\nWith -f json the answer is {\"keys\": [{\"id\", \"name\", \"owner\", \"created_at\",\n\"revoked_at\"}]}; name and revoked_at are left out if there are none.\n" + exitStatusHelp,
			RunE: withMeta(func(ctx context.Context, meta metastore.Store, _ []string) error { return a.listKeys(ctx, meta) }),
		},
		&cobra.Command{
			Use: "revoke ID...", Short: "Revoke keys", Args: cobra.MinimumNArgs(1),
			Long: "Revoke keys. A running server refuses them within seconds; what was made with them\nstays its owners'. An ID that there is not is named, and the others are revoked.\n" + exitStatusHelp,
			RunE: withMeta(a.revokeKeys),
		})
	return cmd
}

func (a *app) createKey(ctx context.Context, meta metastore.Store, name, owner string) error {
	if strings.ContainsFunc(owner, unicode.IsControl) {
		return usagef("--owner: %q contains a control character", owner)
	}
	var b [25]byte
	if _, err := rand.Read(b[:]); err != nil {
		return err
	}
	secret := "tml-" + strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
	k := metastore.Key{
		Hash: server.HashKey(secret), Name: name, Owner: owner, CreatedAt: time.Now().UTC(),
	}
	k.ID = "key-" + k.Hash[:12]
	if k.Owner == "" {
		k.Owner = "tml:user:" + k.Hash[:16]
	}
	if err := meta.CreateKey(ctx, k); err != nil {
		return err
	}
	if a.format == "json" {
		return a.printJSON(struct {
			ID    string `json:"id"`
			Key   string `json:"key"`
			Owner string `json:"owner"`
		}{k.ID, secret, k.Owner})
	}
	a.say("Created %s. The key is shown this once only:", k.ID)
	return a.print("%s\n", secret)
}

// revokeKeys revokes all of the keys that it can: one that was misspelt must
// not leave the others in force.
func (a *app) revokeKeys(ctx context.Context, meta metastore.Store, ids []string) error {
	var errs []error
	for _, id := range ids {
		err := meta.RevokeKey(ctx, id, time.Now().UTC())
		switch {
		case err == nil:
			a.say("Revoked %s.", id)
			continue
		case !errors.Is(err, metastore.ErrNotFound):
			return err // of the database, which fails the others too
		}
		errs = append(errs, &tinkex.Error{Op: "revoke key " + id, Message: "no such key; 'tinkex key list' shows them", Category: tinkex.CategoryUser, Err: tinkex.ErrNotFound})
	}
	a.printErrors(errs)
	return failedItems(errs, len(ids))
}

func (a *app) listKeys(ctx context.Context, meta metastore.Store) error {
	keys, err := meta.Keys(ctx)
	if err != nil {
		return err
	}
	type row struct {
		ID        string     `json:"id"`
		Name      string     `json:"name,omitempty"`
		Owner     string     `json:"owner"`
		CreatedAt time.Time  `json:"created_at"`
		RevokedAt *time.Time `json:"revoked_at,omitempty"`
	}
	rows := make([]row, len(keys))
	for i, k := range keys {
		rows[i] = row{k.ID, k.Name, k.Owner, k.CreatedAt, k.RevokedAt}
	}
	if a.format == "json" {
		return a.printJSON(map[string]any{"keys": rows})
	}
	t := a.table("ID", "Name", "Owner", "Created", "Status")
	for _, r := range rows {
		status := "active"
		if r.RevokedAt != nil {
			status = fmt.Sprintf("revoked %s", ago(*r.RevokedAt))
		}
		t.row(r.ID, r.Name, r.Owner, ago(r.CreatedAt), status)
	}
	return t.render()
}
