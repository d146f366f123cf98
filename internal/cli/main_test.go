package cli

import (
	"os"
	"testing"
	"time"

	"github.com/tinkex/tinkex/internal/pgtest"
)

// patience is enough for any answer on a busy machine.
const patience = time.Minute

// asCommand makes the test's binary the tinkex command.
const asCommand = "TINKEX_TEST_AS_COMMAND"

// TestMain keeps the tests away from the profiles, the keyring and the terminal
// of whoever runs them.
func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		env := System()
		env.CompletionTimeout = patience
		os.Exit(Main(os.Args[1:], env))
	}
	dir, err := os.MkdirTemp("", "tinkex-cli-test")
	if err != nil {
		panic(err)
	}
	for name, value := range map[string]string{
		"XDG_CONFIG_HOME": dir, "TINKEX_NO_KEYRING": "1", fromNameEnv: "", fromKeyEnv: "", fromURLEnv: "",
		"TERM": "xterm",
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	code := pgtest.Run(m)
	_ = os.RemoveAll(dir)
	os.Exit(code)
}
