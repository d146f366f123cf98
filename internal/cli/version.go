package cli

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/tinkex/tinkex"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long:  "Print the version.\n\nWith -f json the answer is {\"version\", \"revision\", \"go\", \"platform\"}; revision is\nleft out if the build did not record it.\n" + exitStatusHelp,
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version  string `json:"version"`
				Revision string `json:"revision,omitempty"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{tinkex.Version, revision(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if a.format == "json" {
				return a.printJSON(v)
			}
			return a.print("%s\n", versionLine())
		},
	}
}

// versionLine is what people are told, by --version too.
func versionLine() string {
	line := "tinkex " + tinkex.Version
	if r := revision(); r != "" {
		line += " (" + r + ")"
	}
	return line + " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
}

// revision is the commit the binary was built from, if the build recorded it.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return ""
}
