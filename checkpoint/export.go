package checkpoint

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/tinkex/tinkex"
)

// ErrNotPEFT: a checkpoint is not one that PEFT could load.
var ErrNotPEFT = errors.New("not a PEFT adapter")

// ExportOptions configures Export. The zero value works.
type ExportOptions struct {
	// Dir is the adapter's directory itself, which is made. Empty is one of the
	// checkpoint's name, path.DirName(), in the working directory.
	Dir string
	// Force replaces a directory that is there already, once the new one is
	// complete.
	Force bool
	// NoModelCard leaves out README.md.
	NoModelCard bool
	// Repo is the repository on the Hugging Face Hub that the model card names
	// in its example. Empty shows a directory's.
	Repo string
	// Download says how the files are fetched. Its Dir and Force are not used.
	Download DownloadOptions
}

// Exported is a checkpoint on disk as PEFT and the Hugging Face Hub take it.
type Exported struct {
	Downloaded
	// BaseModel is what the adapter is for, empty if nothing says.
	BaseModel string
}

// ExportClient is what Export needs of a *tinkex.RestClient.
type ExportClient interface {
	ArchiveClient
	WeightsInfoClient
}

const modelCard = "README.md"

// Export fetches a checkpoint as Download does, and makes of it what PEFT and
// the Hugging Face Hub expect: the adapter, whose configuration names the base
// model, and a model card. The optimizer's state and the mark that ends a
// checkpoint are left out, and a README.md that the checkpoint has itself stays.
//
// A checkpoint that holds no adapter is ErrNotPEFT. The directory appears
// complete, or not at all.
func Export(ctx context.Context, client ExportClient, path tinkex.TinkerPath, opts ExportOptions) (Exported, error) {
	out, err := export(ctx, client, path, opts)
	if err != nil {
		return Exported{}, fmt.Errorf("export %s: %w", path, err)
	}
	return out, nil
}

func export(ctx context.Context, client ExportClient, path tinkex.TinkerPath, opts ExportOptions) (Exported, error) {
	if err := path.Validate(); err != nil {
		return Exported{}, err
	}
	about, err := adapterOf(ctx, client, path)
	if err != nil {
		return Exported{}, err
	}
	return about.export(ctx, client, opts, func() (string, error) { return opts.Repo, nil })
}

// adapter is what is known of a checkpoint's adapter.
type adapter struct {
	path tinkex.TinkerPath
	// info is what the server says of the weights. Servers need not, so without
	// it the base model is what the adapter's own configuration says.
	info tinkex.WeightsInfo
}

func adapterOf(ctx context.Context, client WeightsInfoClient, path tinkex.TinkerPath) (*adapter, error) {
	info, err := client.WeightsInfo(ctx, path)
	var e *tinkex.Error
	switch {
	case errors.As(err, &e) && e.Status != 0 && e.Status != http.StatusUnauthorized:
		return &adapter{path: path}, nil
	case err != nil:
		return nil, err
	case !info.IsLoRA:
		return nil, notPEFT("it holds full weights: only LoRA checkpoints are adapters")
	}
	return &adapter{path, info}, nil
}

func notPEFT(format string, args ...any) error {
	return &tinkex.Error{Category: tinkex.CategoryUser, Message: fmt.Sprintf(format, args...), Err: ErrNotPEFT}
}

// export fetches and prepares it. The card's repository is asked for when the
// base model is known.
func (a *adapter) export(ctx context.Context, client ExportClient, opts ExportOptions, repo func() (string, error)) (Exported, error) {
	remote := opts.Download.transfer()
	defer remote.Close()
	var talk sync.Mutex
	opts.Download.Force = opts.Force
	d := newDownload(client, remote, a.path, opts.Download, &talk)
	d.target, d.checkFiles, d.leftOut = opts.Dir, a.checkFiles, noPartOfAdapter
	d.prepare = func(dir string, files []File) ([]File, error) {
		return a.prepare(dir, files, d.byDigest, opts.NoModelCard, repo)
	}
	got, err := d.run(ctx, "")
	return Exported{got, a.info.BaseModel}, err
}

// noPartOfAdapter reports whether a checkpoint's file is none of an adapter's.
func noPartOfAdapter(name string) bool { return name == completeFile || name == optimizerState }

// checkFiles refuses what has not all that an adapter has.
func (a *adapter) checkFiles(names []string) error {
	switch {
	case !slices.Contains(names, adapterConfig):
		return notPEFT("it has no %s, which a PEFT adapter has", adapterConfig)
	case !slices.Contains(names, adapterWeights) && !slices.Contains(names, adapterPickle):
		return notPEFT("it has no %s, which a PEFT adapter has", adapterWeights)
	case a.path.Type != tinkex.External && !slices.Contains(names, completeFile):
		return notPEFT("it has no %s, which complete checkpoints end with: its files may be cut off", completeFile)
	}
	return nil
}

// prepare makes a checkpoint's files an adapter's.
func (a *adapter) prepare(dir string, files []File, verified, noCard bool, repo func() (string, error)) ([]File, error) {
	if !verified { // an archive's come all
		if err := a.checkFiles(fileNames(files)); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{completeFile, optimizerState} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	files = slices.DeleteFunc(slices.Clone(files), func(f File) bool { return noPartOfAdapter(f.Name) })
	config, err := a.nameBaseModel(dir)
	if err != nil {
		return nil, err
	}
	if config != nil {
		i := slices.IndexFunc(files, func(f File) bool { return f.Name == adapterConfig })
		if files[i], err = writeFile(dir, adapterConfig, config); err != nil {
			return nil, err
		}
	}
	id, err := repo()
	if err != nil || noCard || slices.Contains(fileNames(files), modelCard) {
		return files, err
	}
	card, err := writeFile(dir, modelCard, a.card(id))
	return append(files, card), err
}

// nameBaseModel returns adapter_config.json with the base model in it, or nil if
// it says so itself or nobody knows. It finds out what nobody else said.
func (a *adapter) nameBaseModel(dir string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(dir, adapterConfig))
	if err != nil {
		return nil, err
	}
	var config map[string]json.RawMessage
	if err := json.Unmarshal(b, &config); err != nil || config == nil {
		return nil, notPEFT("its %s is not a JSON object", adapterConfig)
	}
	const key = "base_model_name_or_path"
	var named *string
	if json.Unmarshal(config[key], &named) == nil && named != nil {
		if a.info.BaseModel == "" {
			a.info.BaseModel = *named
		}
		return nil, nil
	}
	if a.info.BaseModel == "" {
		return nil, nil
	}
	if config[key], err = json.Marshal(a.info.BaseModel); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err = enc.Encode(config)
	return out.Bytes(), err
}

// writeFile writes a small file so that it survives a power cut.
func writeFile(dir, name string, b []byte) (File, error) {
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return File{}, err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	sum := sha256.Sum256(b)
	return File{Name: name, Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:])}, errors.Join(err, f.Close())
}

func fileNames(files []File) []string {
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = f.Name
	}
	return names
}
